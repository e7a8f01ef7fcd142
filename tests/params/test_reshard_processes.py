"""The same with real processes and SIGKILL, SIGSTOP: shards die or sleep while buckets move, workers push on."""

import json
import signal
import sys
import threading
import time

import msgspec
import numpy as np
import pytest

from gyral.errors import ConfigError, GyralError
from gyral.params import client
from gyral.params.moving import GIVE_S, Ask
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec

from .. import verbs
from . import places

COUNTS = TableSpec("counts", 2, Optimizer(name="sgd", rate=1.0), init="zero")
KEYS = 5000


class Counting:
    """A worker in a thread: +1 for random keys, until told; what was acknowledged is counted, and how long it took."""

    def __init__(self, made, seed):
        self.client, self.random, self.pushed, self.waits = made, np.random.default_rng(seed), np.zeros(KEYS, np.int64), []
        self.error, self._stop = None, threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            while not self._stop.is_set():
                keys = self.random.integers(0, KEYS, 200)
                began = time.monotonic()
                self.client.table("counts").push(keys, np.ones((200, 2), np.float32))
                self.waits.append(time.monotonic() - began)
                np.add.at(self.pushed, keys, 1)
                time.sleep(0.002)
        except GyralError as error:
            self.error = error

    def stop(self):
        self._stop.set()
        self.thread.join(60)
        assert self.error is None and not self.thread.is_alive()


def sums(looks):
    return -looks.table("counts").pull(np.arange(KEYS))[0]


def check(looks, workers):
    pushed = sum(worker.pushed for worker in workers)
    assert np.array_equal(sums(looks), np.stack([pushed] * 2, axis=1))


@pytest.mark.parametrize("sync", ["async", pytest.param("ssp:1000", marks=pytest.mark.slow)])
def test_two_three_two_processes_while_workers_push(sync, tmp_path):
    settings = Settings(sync=sync, workers=2, cut_s=0.1)
    with client.open("proc://2", [COUNTS], folder=tmp_path, settings=settings, worker=-1, timeout_s=60.0) as looks:
        workers = [Counting(looks.another(number), number) for number in range(2)]
        for num in (3, 2):
            done = looks.reshard(num)
            assert done.buckets == 1365 and done.again == 0
            shards = looks.stats()["shards"]
            assert [each["shard"] for each in shards] == list(range(num))
            assert sum(each["buckets"] for each in shards) == 4096 and all(each["bytes"] > 0 for each in shards)
        for worker in workers:
            worker.stop()
        check(looks, workers)
        assert sum(len(worker.waits) for worker in workers) > 20
        for worker in workers:
            worker.client.flush()
            worker.client.close()
    with client.open("proc://2", [COUNTS], folder=tmp_path, settings=settings, worker=-1, timeout_s=60.0) as looks:
        check(looks, workers)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["params.move.given", "params.move.committing", "params.move.committed", "params.move.left", "params.move.staging",
     "params.move.staged", "params.move.taking", "params.move.part", "params.move.taken", "params.cut.named:9"],
)  # fmt: skip
def test_processes_killed_in_the_middle_of_a_move(fault, tmp_path, monkeypatch):
    """Every process dies once at the point; those of the giver or of the taker alone ever come to it."""
    settings = Settings(workers=2, cut_s=0.1)
    monkeypatch.setenv("GYRAL_FAULT", fault)
    looks = client.open("proc://2", [COUNTS], folder=tmp_path, settings=settings, worker=-1, timeout_s=120.0)
    with looks:
        looks.transport.grow(3)
        end = time.monotonic() + 60
        while "serves" not in (tmp_path / "shard2.log").read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        monkeypatch.delenv("GYRAL_FAULT")
        workers = [Counting(looks.another(number), number) for number in range(2)]
        looks.reshard(3)
        looks.reshard(2)
        for worker in workers:
            worker.stop()
        check(looks, workers)
        assert sum(looks.transport.deaths) >= 1
        for worker in workers:
            worker.client.close()


def test_an_owner_that_slept_while_another_took_its_place_is_refused(tmp_path):
    """SIGSTOP, a successor on the same folder, a move, SIGCONT: nothing that the old one does counts."""
    settings = Settings(workers=1, cut_s=0.1)
    old = places.Served(2, [COUNTS], settings, tmp_path)
    new = None
    try:
        with client.open(old.address, [COUNTS], settings=settings, secret=places.SECRET, timeout_s=60.0) as stale:
            keys = np.arange(KEYS)
            stale.table("counts").push(keys, np.ones((KEYS, 2), np.float32))
            stale.flush()
            old.processes[0].send_signal(signal.SIGSTOP)
            new = places.Served.__new__(places.Served)
            new.folder, new.ports, new.processes, new.jobs = tmp_path, list(old.ports), list(old.processes), 2
            new.ports[0] = 0
            new.start(0)  # as Ray does where a machine does not answer
            with client.open(new.address, [COUNTS], settings=settings, secret=places.SECRET, worker=1, timeout_s=60.0) as fresh:
                fresh.reshard(1)
                fresh.table("counts").push(keys, np.ones((KEYS, 2), np.float32))
                late = stale.table("counts").push_async(keys, np.ones((KEYS, 2), np.float32))  # half of it to the one asleep
                old.processes[0].send_signal(signal.SIGCONT)
                assert old.processes[0].wait(30) == 1
                assert "error:" in (tmp_path / "0.log").read_text()
                assert late.left  # nobody has acknowledged it
                fresh.flush()
                assert (sums(fresh) == 2).all()
        with client.open(new.address, [COUNTS], settings=settings, secret=places.SECRET, seq=1, timeout_s=60.0) as back:
            back.table("counts").push(keys, np.ones((KEYS, 2), np.float32))  # its worker comes again, with what was not taken
            assert (sums(back) == 3).all()
    finally:
        (new or old).close()


def test_a_shell_can_reshard_what_another_process_has_started(tmp_path):
    with client.open("proc://2", [COUNTS], folder=tmp_path, settings=Settings(workers=1), timeout_s=60.0) as one:
        one.table("counts").push(np.arange(KEYS), np.ones((KEYS, 2), np.float32))
        command = [sys.executable, "-m", "gyral.params.reshard", one.address]
        lines = {}
        for words in (["3"], ["1"], []):
            done = verbs.run([*command, *words], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            lines[tuple(words)] = [json.loads(line) for line in done.stdout.splitlines()]
        assert [each["buckets"] for each in lines["3",][1:]] == [1366, 1365, 1365]
        assert "of 1,365 buckets have moved" not in lines and lines["1",][0]["buckets"] == 2730
        assert [(each["buckets"], each["rows"]["counts"]) for each in lines[()]] == [(4096, KEYS)]
        assert (sums(one) == 1).all()
        assert [process.poll() for process in one.transport.processes] == [None, 0, 0]
    done = verbs.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and done.stderr.startswith("error: no shards run here")


def test_more_shards_than_an_address_has_are_refused(tmp_path):
    with (
        places.opened("tcp://2", [COUNTS], tmp_path) as join,
        pytest.raises(ConfigError, match="this address has 2 shards, not 3"),
    ):
        join().reshard(3)
    with places.opened("local://1", [COUNTS], tmp_path / "b") as join, pytest.raises(ConfigError, match="0 shards cannot be"):
        join().reshard(0)


def test_a_mover_that_dies_leaves_workers_waiting_for_no_longer_than_it_says(tmp_path):
    """Given, and nobody commits: the giver serves on."""
    settings = Settings(workers=1, cut_s=0.1)
    with client.open("proc://2", [COUNTS], folder=tmp_path, settings=settings, timeout_s=60.0) as one:
        with one.another(-1) as mover:
            body = msgspec.msgpack.encode(Ask(token="a" * 16, buckets=np.arange(2048, dtype=np.uint16).tobytes(), taker=1))
            assert mover.ask(0, "give", body)["pieces"] >= 1
            assert mover.ask(0, "give", body)["pieces"] >= 1  # asked twice it is the same
            other = msgspec.msgpack.encode(Ask(token="b" * 16, buckets=np.arange(9, dtype=np.uint16).tobytes(), taker=1))
            assert mover.ask(0, "give", other)["refused"] == "another move is under way"
        began = time.monotonic()
        one.table("counts").push(np.arange(KEYS), np.ones((KEYS, 2), np.float32))
        assert 0.5 < time.monotonic() - began < GIVE_S + 10
        with one.another(-1) as mover:
            assert mover.ask(0, "commit", body)["refused"] == "no such move"
        assert (sums(one) == 1).all()
