"""`gyral ingest --follow`: real processes that append, stop and are told to stop."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest

from gyral.errors import ConflictError
from gyral.event.codec import encode_payload
from gyral.event.schema import EVENT
from gyral.ingest.drain import Drain, Drained
from gyral.ingest.following import Following
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.log.writer import Gone, LogError
from gyral.run import Run, read_lineage

if __package__:  # processes import this module as it stands alone
    from .. import verbs

APPEND = """
import sys
from gyral.log.sqlite import SqliteLog
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_following import batch
with SqliteLog(Path(sys.argv[1])) as log:
    partition = log.free_partition("events")
    for number in range(int(sys.argv[3]), int(sys.argv[4])):
        log.append(partition, f"b{number}", batch(number), 10)
print(partition)
"""


def batch(number):
    rows = [
        {"event_id": f"e{number}-{each}", "event_time": number, "ingest_time": number, "kind": "click", "subject": "u"}
        for each in range(10)
    ]
    return encode_payload(pa.RecordBatch.from_pylist(rows, schema=EVENT))


def expected(batches):
    return sorted(f"e{number}-{each}" for number in range(batches) for each in range(10))


def stored(root):
    lake = Lake(root)
    return sorted(lake.snapshot("events").read(["event_id"])["event_id"].to_pylist()) if lake.exists("events") else []


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def follow(tmp_path):
    started = []

    def start(*more, **environment):
        command = [sys.executable, "-m", "gyral", "ingest", "--root", str(tmp_path), "--follow", "--json", *more]
        process = verbs.popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
        )
        started.append(process)
        assert "follows" in process.stderr.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end(process, how):
    process.send_signal(how)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler tells where it hangs
    out, errors = process.communicate(timeout=30)
    assert process.returncode != -signal.SIGABRT, errors
    return process.returncode, out, errors


def append(root, start, stop):
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", APPEND, str(root / "lake" / "log"), here, str(start), str(stop)]
    return verbs.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_what_another_process_appends_is_committed_until_it_is_told_to_stop(follow, tmp_path):
    process = follow()
    first = append(tmp_path, 0, 40)
    wait_for(lambda: len(stored(tmp_path)) == 400)
    taken = [append(tmp_path, start, start + 5) for start in range(40, 60, 5)]
    wait_for(lambda: len(stored(tmp_path)) == 600)
    code, out, errors = end(process, signal.SIGTERM)
    assert (code, json.loads(out)) == (0, {"accepted": 600, "kinds": {"click": 600}, "duplicate": 0, "quarantined": {}}), errors
    assert stored(tmp_path) == expected(60)
    # who follows does not keep a partition from the next who writes; while it trims one, a writer may begin another
    assert len({first, *taken}) < 1 + len(taken)
    run = read_lineage(tmp_path, 1)
    assert (run.status, run.summary["accepted"]) == ("done", 600)


def test_an_interrupt_ends_it_with_the_line_that_goes_on(follow, tmp_path):
    append(tmp_path, 0, 5)
    process = follow()
    wait_for(lambda: len(stored(tmp_path)) == 50)
    code, out, errors = end(process, signal.SIGINT)
    assert (code, out) == (130, "") and "stopped after 50 events" in errors and "--follow" in errors.splitlines()[-1]
    assert read_lineage(tmp_path, 1).status == "interrupted" and stored(tmp_path) == expected(5)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_of_much_work_ends_after_a_commit_and_nothing_is_lost(follow, tmp_path, how):
    append(tmp_path, 0, 300)
    process = follow("--set", "ingest.commit_rows=10")
    wait_for(lambda: len(stored(tmp_path)) > 0)
    code, _, errors = end(process, how)
    assert code == (130 if how == signal.SIGINT else 0), errors
    there = stored(tmp_path)
    assert 0 < len(there) < 3_000 and set(there) <= set(expected(300)) and len(there) % 10 == 0
    again = follow()
    wait_for(lambda: len(stored(tmp_path)) == 3_000)
    assert end(again, signal.SIGTERM)[0] == 0 and stored(tmp_path) == expected(300)


@pytest.mark.parametrize("point", ["lake.planned", "lake.merged", "lake.committed"])
def test_kill_9_while_it_follows(follow, tmp_path, point):
    for start in (0, 10):
        process = follow(GYRAL_FAULT=f"{point}:1")
        append(tmp_path, start, start + 10)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler tells where it hangs
        assert process.wait(20) == -signal.SIGKILL, process.stderr.read()
    process = follow()
    wait_for(lambda: len(stored(tmp_path)) >= 200)
    assert end(process, signal.SIGTERM)[0] == 0 and stored(tmp_path) == expected(20)


def test_a_log_that_was_put_back_ends_it_with_what_to_do(follow, tmp_path):
    append(tmp_path, 0, 5)
    process = follow()
    wait_for(lambda: len(stored(tmp_path)) == 50)
    (partition,) = (tmp_path / "lake" / "log").iterdir()
    for path in partition.iterdir():
        path.unlink()
    assert process.wait(60) == 1
    assert "the log is older than the lake" in process.stderr.read() and stored(tmp_path) == expected(5)
    command = [sys.executable, "-m", "gyral", "ingest", "--root", str(tmp_path), "--follow"]
    done = verbs.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "the log is older than the lake" in done.stderr


@pytest.mark.parametrize("more", [("--source", "x.csv"), ("--replay", "true"), ("--listen", "127.0.0.1:0")])
def test_it_goes_with_nothing_else(tmp_path, more):
    command = [sys.executable, "-m", "gyral", "ingest", "--root", str(tmp_path / "new"), "--follow", *more]
    done = verbs.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "goes alone" in done.stderr and not (tmp_path / "new").exists()


class Faulty(Drain):
    """A drain whose runs fail as they are told."""

    failures: list = []

    def run(self, eager=True, goes_on=lambda _: True):
        if self.failures and self.failures[0] is not None:
            raise self.failures.pop(0)
        return super().run(eager, goes_on)


def test_what_may_pass_is_waited_for_and_told_once_and_the_rest_ends_it(project, monkeypatch):
    monkeypatch.setattr("gyral.ingest.following.AFTER_ERROR_S", 0.02)
    lake, ended = project.lake, threading.Event()
    with SqliteLog(lake.log_folder) as log, Run.start(project.root, "ingest", project.config()) as run:
        log.append("events-1", "b0", batch(0), 10)
        drain = Faulty(lake, log, 1_000)
        drain.failures = [LogError("away"), LogError("away"), ConflictError("others were first"), None, Gone("gone")]
        errors = []
        following = Following(drain, 0.02, run, ends_with=lambda error: (errors.append(error), ended.set()))
        following.start()
        wait_for(lambda: following.done.accepted == 10)
        drain.failures.pop(0)
        log.append("events-1", "b1", batch(1), 10)
        assert ended.wait(20) and following.stop()
    assert isinstance(errors[0], Gone) and following.done == Drained(
        accepted=10, kinds={"click": 10}, version=following.done.version
    )
    notes = [line.split(" ", 1)[1] for line in (run.folder / "log.txt").read_text().splitlines()]
    assert notes == ["drain    waits: away", "drain    waits: others were first", "drain    goes on"]
