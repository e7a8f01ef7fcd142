"""Nothing lost and nothing twice: sums of integers, while processes are killed and frames are lost, repeated and swapped."""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gyral.errors import GyralError
from gyral.params import client, lanes
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec

from .. import verbs
from . import counting, plain
from .flaky import Flaky
from .places import SECRET, Served

WORKER = str(Path(counting.__file__))


@pytest.mark.parametrize("sync", ["async", "ssp:2", "bsp"])
def test_bad_lines_lose_nothing_and_double_nothing(sync, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "PROBE_S", 0.1)
    monkeypatch.setattr(lanes, "GREET_S", 1.0)
    settings = Settings(sync=sync, workers=2, cut_s=0.2)
    server = Served(2, counting.SPECS, settings, tmp_path)
    proxies = [Flaky(port, seed, rate=0.02) for seed, port in enumerate(server.ports)]
    address = "tcp://" + ",".join(f"127.0.0.1:{line.port}" for line in proxies)
    errors, again = [], []

    def work(worker):
        try:
            options = {"settings": settings, "worker": worker, "secret": SECRET, "timeout_s": 30.0, "seq": 0}
            with client.open(address, counting.SPECS, **options) as joined:
                counting.count(joined, 60)
                again.append(joined._lanes.num_again)
        except GyralError as error:
            errors.append(error)

    try:
        threads = [threading.Thread(target=work, args=[worker]) for worker in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == [] and not any(thread.is_alive() for thread in threads)
        harm = {name: sum(line.harm[name] for line in proxies) for name in proxies[0].harm}
        assert sum(harm.values()) > 10 and sum(again) > 0, harm
        with client.open(server.address, counting.SPECS, settings=settings, worker=-1, secret=SECRET) as looks:
            rows = looks.table("counts").pull(np.arange(counting.KEYS))[0]
        assert np.array_equal(rows[:, 0], counting.expected(2, 60))
    finally:
        for line in proxies:
            line.close()
        server.close()


@pytest.mark.parametrize("sync", ["async", "ssp:2", "bsp"])
def test_buckets_that_move_under_pushes_lose_nothing_and_double_nothing(sync, tmp_path):
    dice, errors = random.Random(6), []
    settings = Settings(sync=sync, workers=2)
    first = client.open("local://3", counting.SPECS, settings=settings, timeout_s=30.0)

    def work(joined):
        try:
            counting.count(joined, 120)
        except GyralError as error:
            errors.append(error)

    with first, first.another(1) as second:
        threads = [threading.Thread(target=work, args=[each]) for each in (first, second)]
        for thread in threads:
            thread.start()
        parcels = 0
        while any(thread.is_alive() for thread in threads):
            parcels += first.reshard(dice.choice((1, 2, 3, 4))).parcels
        assert errors == [] and parcels > 5
        rows = first.table("counts").pull(np.arange(counting.KEYS))[0]
        assert np.array_equal(rows[:, 0], counting.expected(2, 120))
        assert sum(lane.losses for lane in first._lanes.all) > 3


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["async", "ssp:2"])
def test_killed_workers_and_shards_lose_nothing_and_double_nothing(sync, tmp_path):
    dice, num = random.Random(3), 400
    settings = Settings(sync=sync, workers=2, cut_s=0.1, lease_s=3.0, join_s=10.0)
    with client.open(
        "proc://2", counting.SPECS, folder=tmp_path / "server", settings=settings, worker=-1, timeout_s=120.0
    ) as looks:
        launched = looks._transport
        start = lambda worker: verbs.popen(  # noqa: E731
            [sys.executable, WORKER, looks.address, str(worker), sync, str(tmp_path), str(num), "0.02"]
        )
        workers, kills = [start(0), start(1)], 0
        end = time.monotonic() + 150
        while any(process.poll() != 0 for process in workers):
            assert time.monotonic() < end
            time.sleep(dice.uniform(0.5, 1.5))
            for at, process in enumerate(workers):
                if process.poll() not in (None, 0):
                    assert process.poll() == -signal.SIGKILL
                    workers[at] = start(at)
            running = [process for process in workers if process.poll() is None]
            if kills < 10 and running:
                victim = dice.choice([*running, *launched.processes])
                os.kill(victim.pid, signal.SIGKILL)
                kills += 1
        assert kills >= 5 and sum(launched.deaths) >= 1
        rows = looks.table("counts").pull(np.arange(counting.KEYS))[0]
        assert np.array_equal(rows[:, 0], counting.expected(2, num))


@pytest.mark.slow
def test_bsp_is_the_same_to_the_bit_when_shards_are_killed_on_the_way(tmp_path):
    spec, num, clocks = TableSpec("learned", 4, Optimizer(name="adam", rate=0.1)), 2, 60
    rng, dice = np.random.default_rng(4), random.Random(5)
    keys = rng.integers(0, 3000, (clocks, num, 150))
    grads = rng.normal(size=(clocks, num, 150, 4)).astype(np.float32)
    oracle = plain.Plain(spec)
    for clock in range(clocks):
        oracle.push(keys[clock].reshape(-1), grads[clock].reshape(-1, 4))
    settings = Settings(sync="bsp", workers=num, cut_s=0.15, lease_s=60.0)
    errors = []

    def work(joined):
        try:
            for clock in range(clocks):
                joined.table("learned").pull(keys[clock, joined.worker])
                joined.table("learned").push(keys[clock, joined.worker], grads[clock, joined.worker])
                joined.tick()
                time.sleep(0.05)
        except GyralError as error:
            errors.append(error)

    with (
        client.open("proc://2", [spec], folder=tmp_path, settings=settings, timeout_s=60.0) as first,
        first.another(1) as other,
    ):
        threads = [threading.Thread(target=work, args=[each]) for each in (first, other)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(dice.uniform(0.2, 0.8))
            if sum(first._transport.deaths) < 5:
                os.kill(dice.choice(first._transport.processes).pid, signal.SIGKILL)
        for thread in threads:
            thread.join(60)
        assert errors == [] and sum(first._transport.deaths) >= 3
        assert np.array_equal(first.table("learned").pull(np.arange(3000))[0], oracle.pull(np.arange(3000))[0])


def test_a_worker_that_is_stopped_holds_the_others_up_at_the_bound_and_no_longer(tmp_path):
    settings = Settings(sync="ssp:2", workers=2, lease_s=2.0, join_s=60.0)
    with client.open("proc://1", counting.SPECS, settings=settings, worker=0, timeout_s=60.0) as one:
        command = [sys.executable, WORKER, one.address, "1", "ssp:2", str(tmp_path), "1000000", "0.001"]
        other = verbs.popen(command)
        try:
            counts = one.table("counts")
            while one.stats()["shards"][0].get("rows_pushed", 0) < 3 * counting.PUSHED:
                counts.pull(np.arange(5))
                one.tick()
            other.send_signal(signal.SIGSTOP)
            began, ahead = time.monotonic(), 0
            waited = []
            while ahead < 20:
                before = time.monotonic()
                counts.pull(np.arange(5))
                if time.monotonic() - before > 0.5:
                    waited.append(ahead)
                one.tick()
                ahead += 1
            assert len(waited) == 1 and 1.0 < time.monotonic() - began < 10
            lags = one.stats()["staleness"]["clocks"]
            assert max(lags) <= 2
            other.send_signal(signal.SIGCONT)
            assert other.wait(30) == 1  # fenced, and it said so
        finally:
            other.kill()
            other.wait()


def test_a_shard_without_a_folder_that_dies_is_an_error_with_its_name(tmp_path):
    one = client.open("proc://2", counting.SPECS, timeout_s=30.0)
    try:
        one.table("counts").push(np.arange(100), np.ones((100, 1), np.float32))
        os.kill(one._transport.processes[1].pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(GyralError, match=r"shard 1 of 2.*signal 9"):
            for _ in range(200):
                one.table("counts").pull(np.arange(100))
                time.sleep(0.02)
        assert time.monotonic() - began < 10
    finally:
        one.close()
