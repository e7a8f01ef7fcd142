import os

import pytest

from gyral.errors import ConflictError
from gyral.files import last_version, new_version, versions, write_atomic


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
