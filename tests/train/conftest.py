"""What tests of whole trainings share."""

import shutil

import pytest

from ..verbs import result

TEXT = "The gyre turns, and what it carries comes back another day. Number {} of many is written here.\n"


@pytest.fixture(scope="session")
def first_written(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    pages = root / "pages"
    pages.mkdir()
    for number in range(60):
        (pages / f"{number}.txt").write_text("".join(TEXT.format(number * 100 + line) for line in range(12)))
    rules = ["--set", "curate.stages=['extract', 'repair', 'digest']"]
    result("curate", "docs", "--source", pages, *rules, "--root", root)
    return root


@pytest.fixture(scope="module")
def written(first_written, tmp_path_factory):
    """A project with `docs`, a dataset of small documents of which nothing is dropped but copies."""
    return shutil.copytree(first_written, tmp_path_factory.mktemp("written") / "project")
