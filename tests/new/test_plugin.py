"""`gyral new plugin`: the package is written, installed by pip, and goes through its four hooks by real commands."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

from gyral import plugins
from gyral.errors import UsageError
from gyral.new.plugin import HOOKS, TEMPLATE, plugin

RUN = {"capture_output": True, "text": True, "timeout": 120}


def gyral(*words, cwd, **environment):
    return subprocess.run([sys.executable, "-m", "gyral", *words], cwd=cwd, env={**os.environ, **environment}, **RUN)


def test_a_package_is_written_installed_and_goes_through_its_hooks(tmp_path):
    written = json.loads(gyral("new", "plugin", "shop_floor", "--json", cwd=tmp_path).stdout)
    folder = tmp_path / "gyral-shop-floor"
    assert written["folder"] == folder.name and {str(path) for path in _files(folder)} == set(written["files"])

    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, "--no-build-isolation", "--target", site, folder], **RUN)
    assert done.returncode == 0, done.stderr
    (package,) = distributions(path=[str(site)])
    assert package.name == "gyral-shop-floor"
    assert {point.group for point in package.entry_points} == {f"gyral.{kind}" for kind in HOOKS}
    assert {point.name for point in package.entry_points} == {"shop_floor"}

    # its own test types ingest, curate, train and dash, and looks at what each says
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder / "tests"]
    done = subprocess.run(tests, cwd=folder, env={**os.environ, "PYTHONPATH": path}, **RUN)
    assert done.returncode == 0, done.stdout

    refused = gyral("new", "plugin", "shop_floor", "again", cwd=tmp_path, PYTHONPATH=path)
    assert refused.returncode == 2 and "there is a source `shop_floor` already" in refused.stderr
    assert not (tmp_path / "again").exists()

    assert "source shop_floor, family shop_floor" in _doctor(tmp_path, path, "ok")["found"]

    # a package whose module is broken is named by the error, and is no crash
    (site / "gyral_shop_floor" / "source.py").write_text("import nothing_of_this_name\n")
    broken = gyral("ingest", "--source", "shop_floor:9", cwd=tmp_path, PYTHONPATH=path)
    assert broken.returncode == 2 and "pip uninstall gyral-shop-floor" in broken.stderr and "Traceback" not in broken.stderr
    assert "nothing_of_this_name" in _doctor(tmp_path, path, "bad")["found"]


def test_nothing_of_the_templates_name_is_left(tmp_path):
    plugin("weather", tmp_path / "out")
    for path in _files(tmp_path / "out"):
        assert not re.search("my.plugin", str(path) + (tmp_path / "out" / path).read_text(), re.IGNORECASE), path
    project = tomllib.loads((tmp_path / "out" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "gyral-weather" and len(project["entry-points"]) == len(HOOKS)
    assert len((TEMPLATE / "README.md").read_text().splitlines()) <= 50


@pytest.mark.parametrize("name", ["", "x", "Weather", "my-plugin", "2d", "a__b", "class", "ünit", "a/b", "../a", "w" * 41])
def test_a_name_that_cannot_be_one_is_refused(name, tmp_path):
    with pytest.raises(UsageError) as caught:
        plugin(name, tmp_path / "out")
    assert "cannot be the name" in caught.value.what and "weather" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "name"), [("family", "lm"), ("source", "file"), ("stage", "digest"), ("page", "mine")])
def test_a_name_that_a_hook_has_is_refused(kind, name, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {("page", "mine"): None})
    with pytest.raises(UsageError) as caught:
        plugin(name, tmp_path / "out")
    assert caught.value.what == f"there is a {kind} `{name}` already"


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(UsageError) as caught:
            plugin("weather", folder)
        assert "gyral new plugin weather FOLDER" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    assert Path("pyproject.toml") in plugin("weather", tmp_path / "empty")


def test_new_alone_says_what_it_can_make(tmp_path):
    done = gyral("new", cwd=tmp_path)
    assert "plugin" in done.stderr and "a source, a curate step" in " ".join(done.stderr.split()) and not done.stdout


def _doctor(folder, path, state):
    """What `gyral doctor` finds of the package, which is in this state."""
    told = json.loads(gyral("doctor", "--json", cwd=folder, PYTHONPATH=path).stdout)["findings"]
    (found,) = (each for each in told if each["check"] == "plug-in gyral-shop-floor")
    assert found["state"] == state
    return found


def _files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
