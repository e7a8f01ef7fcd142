import os
import subprocess
import sys

import pytest

from gyral.errors import ConflictError, NotFound
from gyral.files import alone, find_version, last_version, new_version, versions, write_atomic


def test_write_atomic_replaces_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["x.json"]


def test_a_failed_write_keeps_the_old_bytes(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomic(path, "old")

    def fail(fd):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_versions_count_up_and_a_failed_one_is_never_seen(tmp_path):
    with new_version(tmp_path, "shop") as (folder, number):
        (folder / "a").write_text("1")
    assert number == 1
    with pytest.raises(RuntimeError), new_version(tmp_path, "shop") as (folder, _):
        (folder / "a").write_text("2")
        raise RuntimeError
    assert versions(tmp_path, "shop") == [1]
    assert sorted(os.listdir(tmp_path)) == ["shop@1"]
    with new_version(tmp_path, "shop") as (folder, number):
        (folder / "a").write_text("3")
    assert (number, last_version(tmp_path, "shop"), last_version(tmp_path, "sho")) == (2, 2, 0)


def test_a_version_taken_by_another_process_is_not_overwritten(tmp_path):
    with pytest.raises(ConflictError, match="shop@1"), new_version(tmp_path, "shop") as (folder, number):
        (folder / "a").write_text("mine")
        other = tmp_path / f"shop@{number}"
        other.mkdir()
        (other / "a").write_text("theirs")
    assert (tmp_path / "shop@1" / "a").read_text() == "theirs"


def test_what_a_killed_process_left_is_taken_away_and_what_a_live_one_fills_is_not(tmp_path):
    code = (
        "import os, pathlib, sys\nfrom gyral.files import new_version\n"
        "with new_version(pathlib.Path(sys.argv[1]), 'shop') as (folder, _):\n"
        "    (folder / 'a').write_text('1')\n    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert len(os.listdir(tmp_path)) == 1
    with new_version(tmp_path, "shop") as (mine, number):
        (mine / "a").write_text("2")
        assert os.listdir(tmp_path) == [mine.name] and number == 1
        with new_version(tmp_path, "shop") as (other, _):
            (other / "a").write_text("3")
        (tmp_path / "shop@1").rename(tmp_path / "shop@7")
    assert sorted(os.listdir(tmp_path)) == ["shop@1", "shop@7"]


def test_versions_that_are_not_there_are_told_with_those_that_are(tmp_path):
    for number in (1, 3):
        (tmp_path / f"shop@{number}").mkdir()
    assert find_version(tmp_path, "model", "shop", "").name == "shop@3"
    assert find_version(tmp_path, "model", "shop@1", "").name == "shop@1"
    for name, hint in (
        ("shop@2", "`shop@1`, `shop@3`"),
        ("shop@x", "`shop@3`"),
        ("shp", "did you mean `shop`?"),
        ("@", "`shop`"),
    ):
        with pytest.raises(NotFound, match="there is no model") as caught:
            find_version(tmp_path, "model", name, "make one")
        assert hint in caught.value.hint
    with pytest.raises(NotFound) as caught:
        find_version(tmp_path / "none", "model", "x", "make one")
    assert caught.value.hint == "make one"


def test_alone_refuses_a_second_holder_until_the_first_is_gone(tmp_path):
    with alone(tmp_path / "deep" / "x", "somebody is at it"):
        with pytest.raises(ConflictError, match="somebody is at it"), alone(tmp_path / "deep" / "x", "somebody is at it"):
            pass
        code = "import sys, pathlib\nfrom gyral.files import hold\nsys.exit(hold(pathlib.Path(sys.argv[1])) is None)"
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "deep/x.lock")]).returncode == 1
    with alone(tmp_path / "deep" / "x", "somebody is at it"):
        pass
