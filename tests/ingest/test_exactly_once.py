"""From POST to row, exactly once: real servers killed at every point between two lines, and clients that send again.

The oracle is the clients' own list of what was acknowledged: every one of those ids is one row, and nothing is a row that
nobody sent. Random kills do not find what these points find.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.compute as pc
import pytest

from gyral.errors import ServeError
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.serve.client import Connection

from .. import verbs

SMALL = ("--set", "collect.drain_every_s=0.05", "--set", "ingest.commit_rows=400", "--set", "collect.min_free_bytes=0")


class Server:
    """`gyral ingest --listen`, killed and started again on its port."""

    def __init__(self, root):
        self.root, self.port, self.process = root, 0, None
        self.kills = 0

    def start(self, fault=""):
        code = (
            "import sys\nfrom gyral.log import writer\nfrom gyral.lake import snapshot, table\nwriter.SEGMENT_BYTES = 60_000\n"
            "snapshot.MAX_FRAGMENTS, table.MAX_VERSIONS, table.CLEAN_EVERY_S = 12, 20, 0.0\n"
            "from gyral.ingest import drain\ndrain.SIDES_EVERY_S = 0.2\n"
            "import datetime\ntable.KEEP_VERSIONS_FOR = datetime.timedelta(seconds=2)\n"
            "from gyral.cli import main\nsys.argv = ['gyral', *sys.argv[1:]]\nmain()\n"
        )
        command = [
            sys.executable,
            "-c",
            code,
            "ingest",
            "--root",
            str(self.root),
            "--listen",
            f"127.0.0.1:{self.port}",
            "--json",
        ]
        environment = {**os.environ, "GYRAL_FAULT": fault}
        self.process = verbs.popen([*command, *SMALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        line = self.process.stdout.readline()
        if not line:  # it died before it was up
            assert self.process.wait(30) == -signal.SIGKILL, self.process.stderr.read().decode()
            self.kills += 1
            return self.start()
        self.url = json.loads(line)["url"]
        self.port = int(self.url.rpartition(":")[2])
        return self

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(60)
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()
        return code


async def client(server, number, is_over, acked, sent, chance):
    """Send batches until it is over; what gets no 200 is sent again, and now and then what got one."""
    batch, place = None, 0
    while not is_over() or batch is not None:
        if batch is None:
            ids = [f"{number}-{place + each}" for each in range(20)] + [f"shared-{place // 20}", f"shared-{place // 20}"]
            place += 20
            batch = [{"event_id": each, "event_time": 1_700_000_000_000, "kind": "k", "subject": "s"} for each in ids]
            sent.update(ids)
        body = json.dumps([*batch, {"bad": number}]).encode()
        try:
            connection = Connection(server.url)
            response = await connection.post("/v1/events", body)
            await connection.close()
        except ServeError:
            await asyncio.sleep(0.05)
            continue
        if response.status == 200:
            answer = response.json()
            assert answer["accepted"] + answer["duplicate"] == len(batch) and answer["quarantined"] == {"unknown_field": 1}
            acked.update(each["event_id"] for each in batch)
            if chance.random() > 0.2:
                batch = None
        else:
            assert response.status in (429, 503), response.body
            await asyncio.sleep(0.05)


async def attack(server, fault, seconds, acked, sent):
    """Send for some seconds, and on a slow machine for as long as it takes to die twice."""
    began = time.monotonic()

    def is_over():
        passed = time.monotonic() - began
        return passed > seconds and (not fault or server.kills >= 2 or passed > 90)

    clients = [asyncio.create_task(client(server, n, is_over, acked, sent, random.Random(n))) for n in range(4)]
    while not all(each.done() for each in clients):
        if server.process.poll() is not None:
            assert server.process.returncode == -signal.SIGKILL
            server.kills += 1
            for pipe in (server.process.stdout, server.process.stderr):
                pipe.close()
            await asyncio.to_thread(server.start, "" if is_over() else fault)
        await asyncio.sleep(0.02)
    await asyncio.gather(*clients)


def check(root, acked, sent):
    """Exact set equality, and each row at its own place in the log."""
    with SqliteLog(root / "lake" / "log") as log:
        Drain(Lake(root), log, 10_000).run()
    rows = Lake(root).snapshot("events").read(["event_id", "src_partition", "src_offset", "src_index"])
    ids = rows["event_id"].to_pylist()
    assert len(ids) == len(set(ids)), "an event is counted twice"
    assert acked <= set(ids), f"{len(acked - set(ids))} acknowledged events are lost"
    assert set(ids) <= sent
    places = pc.binary_join_element_wise(*(rows[name].cast("string") for name in rows.column_names[1:]), "/")
    assert len(places.unique()) == len(ids)


POINTS = {
    "log.inserted": 9,
    "log.committed": 9,
    "log.rotating": 2,
    "log.trimming": 2,
    "lake.planned": 3,
    "lake.written": 3,
    "lake.flushed": 3,
    "lake.merged": 3,
    "lake.committed": 3,
    "lake.compacting": 1,
    "lake.cleaning": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_kill_9_at_each_point_loses_and_doubles_nothing(tmp_path, point):
    server = Server(tmp_path).start(f"{point}:{POINTS[point]}")
    acked, sent = set(), set()
    asyncio.run(attack(server, f"{point}:{POINTS[point]}", 7.0, acked, sent))
    server.stop()
    assert server.kills >= 2 and len(acked) > 100, (server.kills, len(acked))
    check(tmp_path, acked, sent)


def test_a_server_that_is_told_to_stop_has_everything_in_the_lake(tmp_path):
    server = Server(tmp_path).start()
    acked, sent = set(), set()
    asyncio.run(attack(server, "", 1.5, acked, sent))
    assert server.stop(signal.SIGINT) == 130
    ids = Lake(tmp_path).snapshot("events").read(["event_id"])["event_id"].to_pylist()
    assert sorted(ids) == sorted(acked) and len(acked) > 100
    quarantine = Lake(tmp_path).overview()["tables"]["quarantine"]
    assert quarantine["reasons"] == {"unknown_field": quarantine["rows"]} and quarantine["rows"] > 0


def test_a_committer_that_slept_between_plan_and_commit_is_refused(tmp_path):
    """The zombie of every lease: it wakes up long after somebody else committed what it planned."""
    rows = [{"event_id": f"e{n}", "event_time": 1_700_000_000_000, "kind": "k", "subject": "s"} for n in range(100)]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, ({**row, "object": "o", "time": row["event_time"]} for row in rows))))
    command = [sys.executable, "-m", "gyral", "ingest", "--root", str(tmp_path / "p"), "--source", str(path), "--map"]
    command += ["subject=subject,object=object,time=time,event_id=event_id,kind=kind"]
    sleeper = verbs.popen(command, env={**os.environ, "GYRAL_FAULT": "lake.planned:1:SIGSTOP"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while os.waitpid(sleeper.pid, os.WNOHANG | os.WUNTRACED)[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lake = Lake(tmp_path / "p")
    with SqliteLog(lake.log_folder) as log:
        assert Drain(lake, log, 1_000).run().accepted == 100
        version = lake.snapshot("events").version
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait(30) == 0
    assert lake.snapshot("events").count() == 100 and lake.snapshot("events").version == version
