"""A disk that really fills: a small tmpfs. Every verb says so in four parts, loses nothing, and its rerun completes."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from gyral.lake.table import Lake

from . import verbs


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def resize(disk, megabytes):
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", disk], check=True)


def fill(disk):
    """Take all space that is left; delete the file to give it back."""
    path = disk / "filler"
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return path


def gyral(*args):
    return verbs.gyral(*args, timeout=120)


def assert_told(done):
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "unexpected" not in done.stderr, done.stderr
    assert "No space left" in done.stderr or "disk is full" in done.stderr, done.stderr
    assert "hint: " in done.stderr


def test_ingest_stops_where_the_disk_ends_and_goes_on_when_there_is_room(disk, small_shop):
    told = []
    for megabytes in (3, 5, 7, 9, 11, 13):
        root = disk / f"p{megabytes}"
        resize(disk, megabytes)
        done = gyral("ingest", "--source", small_shop, "--root", root, "--set", "ingest.commit_rows=20000")
        if done.returncode:
            assert_told(done)
            told.append(done.stderr.partition("error: ")[2].partition(":")[0])
        resize(disk, 200)
        before = Lake(root).snapshot("events").count() if Lake(root).exists("events") else 0
        again = gyral("ingest", "--source", small_shop, "--root", root, "--json")
        assert again.returncode == 0, again.stderr
        counted = json.loads(again.stdout)
        assert (counted["accepted"], counted["duplicate"]) == (60_000 - before, before)
        ids = Lake(root).snapshot("events").read(["event_id"])["event_id"]
        assert len(ids) == len(ids.unique()) == 60_000
        shutil.rmtree(root)
    assert {"the log could not store a batch", "the lake could not be written"} <= set(told)


@pytest.mark.parametrize("verb", ["ingest", "curate", "train", "compress"])
def test_a_verb_that_finds_no_room_says_so_and_completes_later(disk, made, small_shop, verb):
    resize(disk, 200)
    shutil.copytree(made.root, disk / "p")
    args = {
        "ingest": ["ingest", "--source", small_shop],
        "curate": ["curate", "shop"],
        "train": ["train", "shop", "--budget", "1s"],
        "compress": ["compress", "shop"],
    }[verb]
    filler = fill(disk)
    assert_told(gyral(*args, "--root", disk / "p"))
    with open(filler, "ab") as file:
        file.truncate(filler.stat().st_size - (100 << 10))  # enough to begin, not to finish
    done = gyral(*args, "--root", disk / "p", "--set", "ingest.batch_rows=1000")
    if verb != "ingest":  # that file is there already, which needs little room
        assert_told(done)
    filler.unlink()
    assert gyral(*args, "--root", disk / "p").returncode == 0
    assert not [path for path in (disk / "p").rglob("*.tmp")]
    assert gyral("show", "--root", disk / "p").returncode == 0


def test_what_the_system_refuses_and_what_nobody_foresaw_are_told_without_a_trace(tmp_path):
    code = (
        "import sys; import gyral.ingest.files as files\n"
        "def ingest(*_):\n    {act}\n"
        "files.ingest = ingest; sys.argv = ['gyral', 'ingest', '--root', {root!r}]\nfrom gyral.cli import main\nmain()"
    )
    for act, words in {
        "open('/proc/none')": ("the system refused: No such file", "/proc/none", "continue with"),
        "{}['x']": ("unexpected KeyError: 'x'", "runs/2/log.txt", "a fault of gyral"),
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", code.format(act=act, root=str(tmp_path))], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert all(word in done.stderr for word in words), done.stderr
    assert "KeyError" in (tmp_path / "runs" / "2" / "log.txt").read_text()
