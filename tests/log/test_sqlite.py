import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from gyral.errors import ConflictError
from gyral.log import sqlite as embedded
from gyral.log import writer
from gyral.log.sqlite import LogError, SqliteLog

from .. import verbs

ANY_THREAD = {"check_same_thread": False, "isolation_level": None}


@pytest.fixture
def log(tmp_path):
    with SqliteLog(tmp_path) as opened:
        yield opened


def payloads(log, partition, start=0, **options):
    return [(entry.offset, entry.batch_id, entry.payload) for entry in log.read(partition, start, **options)]


def test_append_read_end(log):
    assert log.end("a") == 0 and payloads(log, "a") == []
    assert [log.append("a", f"b{number}", b"%d" % number, 1) for number in range(3)] == [0, 1, 2]
    assert payloads(log, "a", 1) == [(1, "b1", b"1"), (2, "b2", b"2")]
    assert log.end("a") == 3 and log.partitions() == ["a"]


def test_a_batch_id_seen_before_gets_its_first_offset_and_is_stored_once(log):
    assert log.append("a", "same", b"1", 1) == 0
    log.append("a", "other", b"2", 1)
    assert log.append("a", "same", b"again", 1) == 0
    assert payloads(log, "a") == [(0, "same", b"1"), (1, "other", b"2")]


@pytest.fixture
def small(monkeypatch):
    """Segments of three batches of 100 bytes."""
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 300)


def segments(folder):
    return sorted(path.name for path in folder.iterdir() if re.fullmatch(r"\d{20}\.sqlite", path.name))


def fill(log, numbers, partition="a"):
    return [log.append(partition, f"b{number}", b"%03d" % number + b"x" * 97, 1) for number in numbers]


def test_segments_are_sealed_and_read_as_one(tmp_path, small, log):
    assert fill(log, range(10)) == list(range(10))
    assert segments(tmp_path / "a") == [f"{first:020d}.sqlite" for first in (0, 3, 6, 9)]
    assert [entry[:2] for entry in payloads(log, "a", 2)] == [(number, f"b{number}") for number in range(2, 10)]
    assert [entry[0] for entry in payloads(log, "a", 1, max_bytes=450)] == [1, 2, 3, 4, 5]
    log.close()
    with SqliteLog(tmp_path) as again:
        assert again.end("a") == 10 and fill(again, [10]) == [10]


def test_a_sealed_segment_is_one_file(tmp_path, small, log):
    fill(log, range(4))
    assert not list((tmp_path / "a").glob(f"{0:020d}.sqlite-*"))


def test_trim_forgets_whole_segments_and_offsets_never_return(tmp_path, small, log):
    fill(log, range(8))
    assert log.trim("a", 2) == 0 and log.trim("a", 7) == 6
    assert segments(tmp_path / "a") == [f"{6:020d}.sqlite"]
    assert [entry[0] for entry in payloads(log, "a", 6)] == [6, 7]
    assert log.trim("a", 8) == 2 and log.end("a") == 8
    assert fill(log, [8]) == [8] and [entry[0] for entry in payloads(log, "a", 8)] == [8]


def test_who_asks_for_what_was_trimmed_is_told(small, log):
    fill(log, range(8))
    log.trim("a", 6)
    with pytest.raises(LogError, match=r"batches 2 to 5 .* are gone"):
        payloads(log, "a", 2)
    log.trim("a", 8)
    with pytest.raises(LogError, match=r"batches 7 to 7 .* are gone"):
        payloads(log, "a", 7)
    assert payloads(log, "a", 8) == []


def test_a_batch_id_is_unique_across_segments_trims_and_restarts(tmp_path, small):
    with SqliteLog(tmp_path) as log:
        fill(log, range(8))
        log.trim("a", 6)
        assert fill(log, [1, 7, 8]) == [1, 7, 8]
    with SqliteLog(tmp_path) as log:
        assert fill(log, [0, 5, 8, 9]) == [0, 5, 8, 9] and log.end("a") == 10


def test_batch_ids_that_a_crash_kept_from_their_file_come_from_the_segments(tmp_path, small):
    with SqliteLog(tmp_path) as log:
        fill(log, range(5))
        held = log._writer("a")
        held._ids.execute("DELETE FROM ids WHERE offset >= 2")
    with SqliteLog(tmp_path) as log:
        assert fill(log, range(6)) == list(range(6))


def test_a_disk_that_refuses_the_ids_keeps_them_in_memory_and_their_segments(tmp_path, small):
    with SqliteLog(tmp_path) as log:
        fill(log, range(2))
        held = log._writer("a")
        ids, held._ids = held._ids, sqlite3.connect(f"file:{tmp_path / 'a/ids.sqlite'}?mode=ro", uri=True, **ANY_THREAD)
        assert fill(log, [2, 3, 2, 4]) == [2, 3, 2, 4]
        assert log.trim("a", 5) == 0
        held._ids.close()
        held._ids = ids
        assert fill(log, [3, 5]) == [3, 5] and log.trim("a", 6) == 6
        assert fill(log, range(7)) == list(range(7))


def test_old_batch_ids_are_forgotten(tmp_path, small, monkeypatch, log):
    monkeypatch.setattr(writer, "KEEP_IDS", 4)
    fill(log, range(9))
    log.trim("a", 9)
    assert fill(log, [5, 8]) == [5, 8] and fill(log, [4]) == [9]


def test_the_disk_is_given_back(tmp_path, log):
    for number in range(40):
        log.append("a", f"b{number}", os.urandom(100_000), 1)
    assert log.size_bytes("a") > 4_000_000
    assert log.trim("a", 39) == 0 and log.trim("a", 40) == 40
    assert log.size_bytes("a") < 200_000 and log.end("a") == 40


def test_trimmed_bytes_are_gone_from_the_files(tmp_path):
    with SqliteLog(tmp_path) as log:
        log.append("a", "b", b"MARKER-7f3a" * 10, 1)
        assert log.trim("a", 1) == 1
        assert not any(b"MARKER-7f3a" in path.read_bytes() for path in (tmp_path / "a").iterdir())


def test_readers_go_on_while_segments_come_and_go(tmp_path, small):
    """One writer that trims behind the reader, which must see each batch once."""
    seen = []
    with SqliteLog(tmp_path) as log, SqliteLog(tmp_path) as other:
        fill(log, [0])
        done = threading.Event()

        def work():
            for number in range(1, 300):
                fill(log, [number])
                log.trim("a", len(seen))
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        while not done.is_set() or len(seen) < 300:
            seen.extend(entry.batch_id for entry in other.read("a", len(seen), max_bytes=450))
        thread.join()
    assert seen == [f"b{number}" for number in range(300)]


def test_a_segment_that_is_filled_while_it_is_read_is_not_taken_for_a_missing_one(tmp_path, small, log, monkeypatch):
    fill(log, range(3))
    log.trim("a", 3)
    real = embedded.reader

    @contextlib.contextmanager
    def slow(path):
        with real(path) as connection:
            yield connection
        monkeypatch.setattr(embedded, "reader", real)
        fill(log, range(3, 8))

    monkeypatch.setattr(embedded, "reader", slow)
    assert list(log.read("a", 3)) == [] and [entry[0] for entry in payloads(log, "a", 3)] == [3, 4, 5, 6, 7]


def test_a_drain_lets_go_of_what_it_trims_and_nobody_writes(tmp_path, small):
    with SqliteLog(tmp_path) as log:
        fill(log, range(8))
    with SqliteLog(tmp_path) as drain, SqliteLog(tmp_path) as log:
        assert drain.trim("a", 8) == 8 and drain.trim("a", 8) == 0
        assert fill(log, range(6, 9)) == [6, 7, 8] and drain.trim("a", 9) == 0
        log.close()
        assert drain.trim("a", 9) == 1 and drain.end("a") == 9


def test_a_segment_that_is_missing_between_two_others_is_told(tmp_path, small, log):
    fill(log, range(8))
    (tmp_path / "a" / f"{3:020d}.sqlite").unlink()
    with pytest.raises(LogError, match=r"batches 3 to 5 .* are missing"):
        payloads(log, "a", 1)
    with pytest.raises(LogError, match="are missing"):
        payloads(log, "a", 3)
    assert [entry[0] for entry in payloads(log, "a", 6)] == [6, 7]


def test_after_a_segment_was_sealed_nothing_goes_into_it_whatever_failed(tmp_path, small, log, monkeypatch):
    fill(log, range(2))
    real = writer._connect

    def refuse(*_):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(writer, "_connect", refuse)
    with pytest.raises(LogError, match="could not be trimmed"):
        log.trim("a", 2)
    with pytest.raises(LogError, match="could not store"):
        fill(log, [2])
    monkeypatch.setattr(writer, "_connect", real)
    assert fill(log, [2, 3]) == [2, 3] and log.end("a") == 4
    assert [entry[:2] for entry in payloads(log, "a", 0)] == [(number, f"b{number}") for number in range(4)]
    log.close()
    with SqliteLog(tmp_path) as again:
        assert fill(again, [3, 4]) == [3, 4]


def test_a_log_of_the_older_layout_is_not_passed_over(tmp_path, log):
    (tmp_path / "ingest-0a1b.sqlite").write_bytes(b"x")
    with pytest.raises(LogError, match="older version"):
        log.partitions()


def test_read_stops_after_max_bytes_and_goes_on_from_there(log):
    for number in range(5):
        log.append("a", f"b{number}", b"x" * 100, 1)
    assert [entry[0] for entry in payloads(log, "a", 0, max_bytes=250)] == [0, 1, 2]
    assert [entry[0] for entry in payloads(log, "a", 3)] == [3, 4]


def test_many_threads_share_commits_and_every_ack_is_there(log):
    offsets = []

    def work(thread):
        offsets.extend(log.append("a", f"{thread}-{number}", b"x", 1) for number in range(25))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(offsets) == list(range(200))


def test_a_partition_has_one_writer_and_free_partition_steps_aside(tmp_path, log):
    first = log.free_partition("serve")
    with SqliteLog(tmp_path) as other:
        with pytest.raises(ConflictError):
            other.append(first, "b", b"x", 1)
        second = other.free_partition("serve")
        assert second != first and other.free_partition("ingest").startswith("ingest-")
        assert other.trim(first, 10) == 0
    assert log.free_partition("serve") == first
    log.close()
    with SqliteLog(tmp_path) as later:  # what was left is taken up again
        assert later.free_partition("serve") in {first, second}
        assert len(later.partitions()) == 3


def test_a_log_that_was_removed_gives_its_names_to_nobody(tmp_path):
    with SqliteLog(tmp_path) as log:
        first = log.free_partition("serve")
    shutil.rmtree(tmp_path / first)
    with SqliteLog(tmp_path) as log:
        assert log.free_partition("serve") != first


def test_a_batch_that_cannot_be_stored_fails_its_caller_and_nobody_else(tmp_path, log):
    with pytest.raises(LogError, match="could not store"):
        log.append("a", "b0", object(), 1)
    assert log.append("a", "b1", b"x", 1) == 0
    held = log._writer("a")
    log.close()
    with pytest.raises(LogError, match="closed"):
        held.submit("b2", b"x", 1)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41b", "a b"])
def test_a_folder_may_have_any_name(tmp_path, name):
    with SqliteLog(tmp_path / name) as log:
        log.append("a", "b", b"x", 1)
        assert log.end("a") == 1 and [entry.payload for entry in log.read("a", 0)] == [b"x"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_every_folder_that_names_the_first_batch_is_flushed_before_it_is_acknowledged(tmp_path, monkeypatch):
    flushed = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.add(os.path.realpath(f"/proc/self/fd/{fd}")), real(fd))[1])
    with SqliteLog(tmp_path / "p" / "lake" / "log") as log:
        log.append("a", "b", b"x", 1)
        assert {str(tmp_path / part) for part in ("", "p", "p/lake", "p/lake/log")} <= flushed


def test_an_acknowledged_batch_was_synced_by_sqlite(log):
    log.append("a", "b", b"x", 1)
    assert log._writer("a")._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_readers_see_what_a_writer_in_the_same_moment_acknowledged(tmp_path, log):
    reader = SqliteLog(tmp_path)
    for number in range(10):
        log.append("a", f"b{number}", b"x", 1)
        assert reader.end("a") == number + 1


def test_acknowledged_batches_survive_kill_9(tmp_path):
    code = (
        "import sys, pathlib\nfrom gyral.log.sqlite import SqliteLog\nlog = SqliteLog(pathlib.Path(sys.argv[1]))\n"
        "for number in range(10**6):\n    log.append('a', str(number), b'x' * 1000, 1)\n    print(number, flush=True)\n"
    )
    child = verbs.popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    for _ in range(30):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    acknowledged = 30 + len(child.stdout.read().splitlines())
    child.wait()
    child.stdout.close()
    with SqliteLog(tmp_path) as log:
        stored = [int(entry.batch_id) for entry in log.read("a", 0)]
        assert stored == list(range(len(stored))) and acknowledged <= len(stored) <= acknowledged + 1
        assert log.append("a", "next", b"x", 1) == len(stored)


def test_a_file_that_is_not_a_log_is_a_clear_error(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"{0:020d}.sqlite").write_bytes(b"not a database, " * 1000)
    with SqliteLog(tmp_path) as log, pytest.raises(LogError, match="cannot be opened"):
        log.append("a", "b", b"x", 1)


def test_a_refused_commit_acknowledges_nothing_and_the_next_one_works(tmp_path):
    with SqliteLog(tmp_path) as log:
        log.append("a", "b0", b"x", 1)
        blocker = sqlite3.connect(tmp_path / "a" / f"{0:020d}.sqlite", isolation_level=None)
        limit = blocker.execute("PRAGMA page_count").fetchone()[0]
        blocker.close()
        log._writer("a")._connection.execute(f"PRAGMA max_page_count={limit}")  # the disk is full from here on
        with pytest.raises(LogError, match="full"):
            log.append("a", "b1", b"x" * 100_000, 1)
        log._writer("a")._connection.execute("PRAGMA max_page_count=1073741823")
        assert log.append("a", "b1", b"x" * 100_000, 1) == log.end("a") - 1
        assert [entry.batch_id for entry in log.read("a", 0)] == ["b0", "b1"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b"])
def test_partition_names_never_reach_the_file_system(log, name):
    with pytest.raises(ValueError):
        log.append(name, "b", b"x", 1)


@pytest.mark.slow
def test_kill_9_at_any_moment_of_making_a_segment_leaves_a_log_that_opens(tmp_path):
    """Every system call of the making is a place to die: readers and writers go on from each."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    code = (
        "import sys, pathlib\nfrom gyral.log import writer\nwriter.SEGMENT_BYTES = 150\n"
        "from gyral.log.sqlite import SqliteLog\nlog = SqliteLog(pathlib.Path(sys.argv[1]))\n"
        "for number in range(4):\n    log.append('a', str(number), b'x' * 100, 1)\n    print(number, flush=True)\n"
    )
    died = 0
    for call, last in (("fdatasync", 18), ("pwrite64", 40), ("unlink", 12), ("rename", 3), ("ftruncate", 6)):
        for when in range(1, last, 2):
            folder = tmp_path / f"{call}-{when}"
            inject = f"inject={call}:signal=SIGKILL:when={when}"
            command = [
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                f"trace={call}",
                "-e",
                inject,
                sys.executable,
                "-c",
                code,
            ]
            done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60)
            died += done.returncode != 0
            acknowledged = len(done.stdout.split())
            with SqliteLog(folder) as log:
                for partition in log.partitions():  # a reader comes first, as in a drain
                    stored = [entry.batch_id for entry in log.read(partition, 0)]
                    assert stored == [str(number) for number in range(len(stored))] and len(stored) >= acknowledged
                for number in range(5):
                    log.append("a", str(number), b"x" * 100, 1)
                assert [entry.batch_id for entry in log.read("a", 0)] == ["0", "1", "2", "3", "4"]
    assert died > 20
