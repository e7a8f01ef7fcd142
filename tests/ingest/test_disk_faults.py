"""What the disk does: flushes in the right order (by strace), flushes that fail, tails that are torn or flipped."""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest

from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog

traced = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

COMMIT = """
import json, os, sys
from pathlib import Path
from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
lake = Lake(Path(sys.argv[1]))
with SqliteLog(lake.log_folder) as log:
    for number in range(3):
        events = [{"event_id": f"{number}-{n}", "event_time": 1, "kind": "k", "subject": "s"} for n in range(10)]
        payload = encode_payload(to_columns(check_json(json.dumps(events).encode()).events, 0))
        log.append("a", str(number), payload, 10)
        os.write(1, b"ACK%d" % number)
        Drain(lake, log, 1000).run()
"""
APPEND = """
import sys
from pathlib import Path
from gyral.log.writer import LogError
from gyral.log.sqlite import SqliteLog
log = SqliteLog(Path(sys.argv[1]))
log.append("a", "first", b"x" * 500, 1)
print("opened", flush=True)
for number in range(40):
    try:
        log.append("a", str(number), b"%03d" % number * 300, 1)
        print(number, flush=True)
    except LogError:
        print("refused", number, flush=True)
"""


def strace(*options, code, root):
    command = ["strace", "-f", "-y", "-qq", "-s", "16", *options, "-o", root / "trace", sys.executable, "-c", code, root / "p"]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200)


@traced
def test_everything_is_flushed_before_it_is_acknowledged_and_before_it_is_trimmed(tmp_path):
    """Read from the system calls: the log's file before each answer, the lake's files and folders before the log forgets."""
    calls = "trace=fsync,fdatasync,pwrite64,write,unlink,unlinkat"
    done = strace("-e", calls, code=COMMIT, root=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "trace").read_text().splitlines()
    lake = str(tmp_path / "p" / "lake")

    def places(pattern):
        return [number for number, line in enumerate(lines) if re.search(pattern, line)]

    acks = places(r"write\(1<.*\"ACK")
    assert len(acks) == 3
    for ack in acks:
        wrote = [number for number in places(rf"pwrite64\(\d+<{lake}/log/a/\d+\.sqlite-wal>") if number < ack]
        flushed = [number for number in places(rf"f(data)?sync\(\d+<{lake}/log/a/\d+\.sqlite-wal>") if number < ack]
        assert wrote and flushed and flushed[-1] > wrote[-1], "an acknowledged batch was not flushed"
    trims = places(rf"unlink(at)?\(.*{lake}/log/a/\d+\.sqlite\"")
    assert len(trims) == 3
    flushes = {}
    for number in places(r"f(data)?sync\(\d+<"):
        path = re.search(r"sync\(\d+<([^>]+)>", lines[number])[1]
        path = re.sub(r"/\.(events|quarantine)\.[^/]+\.tmp/", "/", path)  # a table is made beside its place and renamed
        flushes.setdefault(path, []).append(number)
    for name in ("events", "quarantine"):
        for folder, _, files in os.walk(f"{lake}/{name}"):
            for path in [folder, *(os.path.join(folder, each) for each in files)]:
                if "/_refs" not in path:
                    assert flushes.get(path, [len(lines)])[0] < trims[-1], f"{path} was not flushed before the log forgot"
    newest = sorted(os.listdir(f"{lake}/events/data"), key=lambda each: flushes[f"{lake}/events/data/{each}"][0])
    for data, ack, trim in zip(newest, acks, trims, strict=True):
        assert ack < flushes[f"{lake}/events/data/{data}"][0] < trim


@traced
@pytest.mark.parametrize("when", [1, 2, 4, 6, 8, 10, 12, 13, 14, 15, 16, 17, 20, 30])
def test_a_flush_that_fails_acknowledges_nothing_and_is_never_retried_as_success(tmp_path, when):
    done = strace("-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:when={when}", code=APPEND, root=tmp_path)
    told = done.stdout.split("\n")
    if "opened" not in told:  # it failed while the log was made: that is told, and the next try makes it
        assert "the log cannot be opened" in done.stderr or "could not store" in done.stderr
        again = subprocess.run([sys.executable, "-c", APPEND, tmp_path / "p"], capture_output=True, text=True, timeout=60)
        assert again.returncode == 0 and "refused" not in again.stdout, again.stderr
        return
    acknowledged = [int(line) for line in told if line.isdecimal()]
    refused = [int(line.split()[1]) for line in told if line.startswith("refused")]
    assert len(refused) <= 1 and len(acknowledged) + len(refused) == 40, (refused, done.stderr)
    assert when < 20 or refused, "no append met the fault"
    with SqliteLog(tmp_path / "p") as log:
        stored = {entry.batch_id: entry.payload for entry in log.read("a", 0)}
        assert all(stored[str(number)] == b"%03d" % number * 300 for number in acknowledged)
        before = log.end("a")
        for number in refused:  # the client sends it again
            log.append("a", str(number), b"%03d" % number * 300, 1)
            assert log.end("a") == before + (str(number) not in stored)
        assert [entry.offset for entry in log.read("a", 0)] == list(range(log.end("a")))


@pytest.mark.parametrize("damage", ["cut 1", "cut 100", "cut 5000", "flip 10", "flip 3000", "flip 9000"])
def test_a_torn_or_flipped_tail_keeps_what_is_before_it_and_never_reads_as_something_else(tmp_path, damage):
    code = APPEND.replace("range(40)", "range(12)") + "\nimport os\nos._exit(0)\n"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p")], check=True, stdout=subprocess.DEVNULL)
    wal = next((tmp_path / "p" / "a").glob("0*.sqlite-wal"))
    body = bytearray(wal.read_bytes())
    how, size = damage.split()
    if how == "cut":
        del body[-int(size) :]
    else:
        body[-int(size)] ^= 0x40
    wal.write_bytes(body)
    for shm in (tmp_path / "p" / "a").glob("*-shm"):  # as after a power cut: it is in memory only
        shm.unlink()
    with SqliteLog(tmp_path / "p") as log:
        stored = [(entry.batch_id, entry.payload) for entry in log.read("a", 0)]
        whole = [("first", b"x" * 500), *((str(number), b"%03d" % number * 300) for number in range(12))]
        assert stored == whole[: len(stored)] and 1 <= len(stored) < 13
        for batch_id, payload in whole:  # whoever got no answer sends again; whoever did may, too
            log.append("a", batch_id, payload, 1)
        assert [(entry.batch_id, entry.payload) for entry in log.read("a", 0)] == whole


def test_a_log_that_lost_what_the_lake_has_is_told(tmp_path):
    """A tail that was torn after the lake had it would give its offsets to other batches."""
    subprocess.run([sys.executable, "-c", COMMIT, str(tmp_path)], check=True, stdout=subprocess.DEVNULL)
    segment = max((tmp_path / "lake/log/a").glob("0*.sqlite"))
    shutil.move(segment, segment.with_name(f"{0:020d}.sqlite"))
    done = subprocess.run(
        [sys.executable, "-m", "gyral", "ingest", "--root", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "the log is older than the lake" in done.stderr


def test_flipped_bits_in_the_lake_are_an_error_or_change_nothing(tmp_path):
    """Each file of a small table with one bit flipped, some 60 times: a clear error, or the same rows."""
    subprocess.run([sys.executable, "-c", COMMIT, str(tmp_path / "p")], check=True, stdout=subprocess.DEVNULL)
    whole = Lake(tmp_path / "p").snapshot("events").read(["event_id"])["event_id"].to_pylist()
    chance = random.Random(0)
    files = [path for path in (tmp_path / "p/lake/events").rglob("*") if path.is_file()]
    code = (
        "import sys, json\nfrom pathlib import Path\nfrom gyral.errors import GyralError\nfrom gyral.lake.table import Lake\n"
        "for root in sys.argv[1:]:\n    try:\n        rows = Lake(Path(root)).snapshot('events').read(['event_id'])\n"
        "        print(json.dumps(rows['event_id'].to_pylist()), flush=True)\n"
        "    except GyralError:\n        print('null', flush=True)\n"
    )
    roots = []
    for number in range(60):
        root = tmp_path / f"c{number}"
        shutil.copytree(tmp_path / "p", root)
        path = root / chance.choice(files).relative_to(tmp_path / "p")
        body = bytearray(path.read_bytes())
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        path.write_bytes(body)
        roots.append(str(root))
    done = subprocess.run([sys.executable, "-c", code, *roots], capture_output=True, text=True, timeout=120)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 60, done.stderr[-2000:]
    assert all(each is None or each == whole for each in told), [each for each in told if each not in (None, whole)][:2]
