"""What is released: the same bytes whenever it is built, all of the package in it, and metadata that read anywhere.

`scripts/package` does the rest: clean exports, sdists, installs into empty environments, the audit of the pins.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gyral

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "gyral"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Two wheels of this tree, from two copies that differ in place, times and rights of their files."""
    made = []
    for number, mask in enumerate((0o022, 0o077)):
        tree = tmp_path_factory.mktemp(f"tree{number}")
        shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.nb?", "*.egg-info"))
        for name in ("pyproject.toml", "README.md", "hatch_build.py"):
            shutil.copy(ROOT / name, tree / name)
        for path in tree.rglob("*"):
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
            os.utime(path, (1e9 + number, 1e9 + number))
        done = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tree / "dist"],
            cwd=tree, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made += (tree / "dist").glob("*.whl")
    return made


def test_two_builds_are_the_same_bytes(wheels):
    first, second = wheels
    assert first.name == second.name == f"gyral-{gyral.__version__}-py3-none-any.whl"
    assert first.read_bytes() == second.read_bytes()


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(wheels):
    names = {name for name in zipfile.ZipFile(wheels[0]).namelist() if ".dist-info/" not in name}
    made = ("__pycache__", ".nbi", ".nbc")
    here = {
        f"gyral/{path.relative_to(PACKAGE)}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and not any(each in str(path) for each in made)
    }
    assert names == here
    assert "gyral/new/template/pyproject.toml" in names and "gyral/dash/templates/base.html" in names


def test_the_metadata_stand_alone(wheels):
    archive = zipfile.ZipFile(wheels[0])
    (name,) = (each for each in archive.namelist() if each.endswith("/METADATA"))
    told = email.message_from_bytes(archive.read(name))
    assert told["Version"] == gyral.__version__ and told["Requires-Python"] == "<3.14,>=3.11"
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)} <= set(told.get_all("Classifier"))
    text = told.get_payload(decode=True).decode()
    assert told["Description-Content-Type"] == "text/markdown" and text.startswith("# gyral\n")
    assert [each for each in re.findall(r"\]\(([^)]+)\)", text) if not each.startswith(("https:", "#"))] == []
    assert "`docs/guides/params.md`" in text  # a link's path is still told


def test_the_version_stands_in_one_place_and_has_its_heading_in_the_changelog():
    heads = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == ("Unreleased", "") and heads[1][0] == gyral.__version__ and heads[1][1]
    assert re.fullmatch(r"\d+\.\d+\.\d+", gyral.__version__)
    assert f'"{gyral.__version__}"' not in (ROOT / "pyproject.toml").read_text()
