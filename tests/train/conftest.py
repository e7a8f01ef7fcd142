"""What tests of whole trainings share."""

import subprocess
import sys

import pytest

TEXT = "The gyre turns, and what it carries comes back another day. Number {} of many is written here.\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A project with `docs`, a dataset of small documents of which nothing is dropped but copies."""
    root = tmp_path_factory.mktemp("project")
    pages = root / "pages"
    pages.mkdir()
    for number in range(60):
        (pages / f"{number}.txt").write_text("".join(TEXT.format(number * 100 + line) for line in range(12)))
    rules = ["--set", "curate.stages=['extract', 'repair', 'digest']"]
    command = [sys.executable, "-P", "-m", "gyral", "curate", "docs", "--source", str(pages), *rules, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return root
