"""One client, wherever shards live: the same rows, the same errors, and no wait without an end."""

import threading
import time

import numpy as np
import pytest

from gyral.errors import ConfigError, GyralError, InputError, NotFound, RankError
from gyral.params import client
from gyral.params.consistency import Fenced
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec

from . import plain
from .places import FEW, PLACES, opened

SPECS = [TableSpec("items", 5, Optimizer(rate=0.1)), TableSpec("counts", 1, Optimizer(name="sgd", rate=1.0), init="zero")]


@pytest.fixture(params=PLACES)
def place(request):
    return request.param


def test_rows_are_those_of_a_dict(place, tmp_path):
    rng = np.random.default_rng(1)
    table, counts = plain.Plain(SPECS[0]), plain.Plain(SPECS[1])
    with opened(place, SPECS, tmp_path, kept=True) as join:
        one = join()
        items = one.table("items")
        for step in range(5):
            keys = rng.integers(-30, 30, 80)
            pulled = items.pull_async(keys)
            counted = one.table("counts").pull_async(keys)
            rows, held = pulled.result()
            expected = table.pull(keys)
            assert np.array_equal(rows, expected[0]) and np.array_equal(held, expected[1])
            assert np.array_equal(counted.result()[0], counts.pull(keys)[0])
            grads = rng.normal(size=(80, 5)).astype(np.float32)
            items.push_async(keys, grads, at=step)
            table.push(keys, grads, at=step)
            one.table("counts").push(keys, np.ones((80, 1), np.float32))
            counts.push(keys, np.ones((80, 1), np.float32))
            one.tick()
        often = rng.integers(0, 90, 6000)  # keys that repeat travel once
        assert np.array_equal(items.pull(often)[0], table.pull(often)[0])
        grads = rng.normal(size=(6000, 5)).astype(np.float32)
        items.push(often, grads, at=9)
        table.push(often, grads, at=9)
        assert np.array_equal(items.pull(often)[0], table.pull(often)[0])
        assert items.pull(np.zeros(0, np.int64))[0].shape == (0, 5)
        items.push(np.zeros(0, np.int64), np.zeros((0, 5), np.float32))
        assert (one.seq, one.clock) == (12, 5)
        one.flush()
        assert one.durable_seq == one.seq
        stats = one.stats()
        assert sum(each["rows"]["items"] for each in stats["shards"]) == len(np.unique(items_keys(table)))
        assert stats["staleness"]["pushes"].keys() == {0} and stats["rows_pushed"] == 6800


def test_delay_is_compensated_where_the_rows_are(place, tmp_path):
    spec = TableSpec("late", 3, Optimizer(name="sgd", rate=0.1, compensation=0.5), scale=1.0)
    rng, oracle = np.random.default_rng(2), plain.Plain(spec)
    with opened(place, [spec], tmp_path) as join:
        late = join().table("late")
        keys = np.arange(200)
        base = late.pull(keys)[0]
        for _ in range(3):
            grads = rng.normal(size=(200, 3)).astype(np.float32)
            late.push(keys, grads, 0, base)
            oracle.push(keys, grads, 0, base)
        assert np.array_equal(late.pull(keys)[0], oracle.pull(keys)[0])


def items_keys(table):
    return np.concatenate([table.export(bucket)[0].keys for bucket in range(4096)])


def test_rows_that_are_kept_stay_as_they_were(place, tmp_path):
    keys = np.arange(1000)
    with opened(place, SPECS, tmp_path) as join:
        counts = join().table("counts")
        kept = []
        for step in range(20):
            kept.append(counts.pull(keys)[0][step:])
            counts.push(keys, np.ones((1000, 1), np.float32))
        assert all((rows == -step).all() and len(rows) == 1000 - step for step, rows in enumerate(kept))


def test_workers_of_ssp_wait_for_the_slowest(place, tmp_path):
    keys = np.arange(50)
    with opened(place, SPECS, tmp_path, sync="ssp:1", workers=2) as join:
        fast, slow = join(0), join(1)
        counts = fast.table("counts")
        for _ in range(2):
            counts.pull(keys)
            fast.tick()
        waits = counts.pull_async(keys)  # at clock 2, and the other at 0
        with pytest.raises(RankError, match=r"waited 0\.3 s for shard.*to answer a pull of `counts`.*worker 1 is at clock 0"):
            fast._lanes.wait(lambda: not waits.left, "answer a pull of `counts`", timeout_s=0.3)
        slow.table("counts").push(keys, np.ones((50, 1), np.float32))
        slow.tick()
        assert (waits.result()[0] == -1).all()
        assert max(fast.stats()["staleness"]["clocks"]) <= 1
        fast.tick()
        slow.close()  # whoever leaves blocks nobody
        counts.pull(keys)


def test_bsp_gives_the_same_bits_everywhere(tmp_path):
    rng = np.random.default_rng(5)
    keys = rng.integers(-40, 40, (4, 3, 60))
    grads = rng.normal(size=(4, 3, 60, 5)).astype(np.float32)
    expected = plain.Plain(SPECS[0])
    for clock in range(4):
        expected.push(keys[clock].reshape(-1), grads[clock].reshape(-1, 5), at=clock)
    every = np.arange(-40, 40)
    for turn, place in enumerate(("local://1", "local://2", "local://7", "proc://2", "tcp://2")):
        with opened(place, SPECS, tmp_path / place.replace("/", ""), sync="bsp", workers=3) as join:
            clients = [join(worker) for worker in range(3)]
            errors = []

            def work(worker, turn=turn, clients=clients, errors=errors):
                try:
                    for clock in range(4):
                        time.sleep(0.01 * ((worker + clock + turn) % 3))
                        items = clients[worker].table("items")
                        items.pull(keys[clock, worker])
                        items.push(keys[clock, worker], grads[clock, worker], at=clock)
                        clients[worker].tick()
                except GyralError as error:
                    errors.append(error)

            threads = [threading.Thread(target=work, args=[worker]) for worker in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert errors == []
            assert np.array_equal(clients[turn % 3].table("items").pull(every)[0], expected.pull(every)[0]), place


@pytest.mark.parametrize("place", FEW)
def test_what_is_wrong_with_a_push_is_said_and_nothing_changes(place, tmp_path):
    keys = np.arange(100)
    with opened(place, SPECS, tmp_path) as join:
        one = join()
        counts = one.table("counts")
        counts.push(keys, np.ones((100, 1), np.float32))
        bad = np.ones((100, 1), np.float32)
        bad[7] = np.inf
        with pytest.raises(InputError, match="not a number to learn from"):
            counts.push(keys, bad)
        with pytest.raises(InputError, match=r"not \(100, 1\)"):
            counts.push(keys, np.ones((100, 2), np.float32))
        with pytest.raises(InputError, match="event time"):
            counts.push(keys, np.ones((100, 1), np.float32), at=-5)
        counts.push(keys, np.ones((100, 1), np.float32))
        assert (counts.pull(keys)[0] == -2).all()
        with pytest.raises(NotFound, match="counts"):
            one.table("count")


@pytest.mark.parametrize("place", FEW)
def test_an_older_incarnation_is_told_that_it_is_over(place, tmp_path):
    with opened(place, SPECS, tmp_path) as join:
        old = join(epoch=5)
        old.table("counts").push(np.arange(9), np.ones((9, 1), np.float32))
        old.tick()
        new = join(epoch=6)
        assert (new.seq, new.clock) == (1, 1)
        with pytest.raises(Fenced, match=r"worker 0 is fenced.*incarnation 6"):
            old.table("counts").push(np.arange(9), np.ones((9, 1), np.float32))
        new.table("counts").push(np.arange(9), np.ones((9, 1), np.float32))
        assert (new.table("counts").pull(np.arange(9))[0] == -2).all()


@pytest.mark.parametrize("place", FEW)
def test_a_worker_that_starts_after_the_clock_went_back_is_the_newest(place, tmp_path, monkeypatch):
    now, keys = time.time_ns(), np.arange(9)
    with opened(place, SPECS, tmp_path, kept=True) as join:
        monkeypatch.setattr(client.time, "time_ns", lambda: now)
        old = join()
        old.table("counts").push(keys, np.ones((9, 1), np.float32))
        monkeypatch.setattr(client.time, "time_ns", lambda: now - 3_600_000_000_000)
        new = join()
        new.table("counts").push(keys, np.ones((9, 1), np.float32))
        assert new.epoch > old.epoch and new.seq == 2 and (new.table("counts").pull(keys)[0] == -2).all()
        with pytest.raises(Fenced):
            old.table("counts").push(keys, np.ones((9, 1), np.float32))


@pytest.mark.parametrize("place", FEW)
def test_a_worker_that_goes_on_from_its_checkpoint_pushes_nothing_twice(place, tmp_path):
    keys = np.arange(40)
    with opened(place, SPECS, tmp_path) as join:
        join()
        one = join(worker=1, epoch=1)
        for _ in range(5):
            one.table("counts").push(keys, np.ones((40, 1), np.float32))
        again = join(worker=1, epoch=2, seq=2, clock=0)
        for _ in range(4):
            again.table("counts").push(keys, np.ones((40, 1), np.float32))
        assert again.seq == 6 and (again.table("counts").pull(keys)[0] == -6).all()


def test_leases_run_out_over_real_links(tmp_path):
    with opened("proc://2", SPECS, tmp_path, sync="ssp:0", workers=2, lease_s=0.6) as join:
        one, other = join(0), join(1)
        one.tick()
        other._is_closed.set()  # its beats end, as when it is stopped
        began = time.monotonic()
        one.table("counts").pull(np.arange(10))
        assert 0.2 < time.monotonic() - began < 5
        other._is_closed.clear()
        with pytest.raises(Fenced):
            other.table("counts").pull(np.arange(10))
        time.sleep(1.0)  # an idle one beats by itself
        one.table("counts").pull(np.arange(10))


@pytest.mark.parametrize("address", ["local://0", "local://x", "proc://300", "http://a", "tcp://a", ""])
def test_what_is_no_address_is_said(address):
    with pytest.raises(ConfigError, match="://"):
        client.open(address, SPECS, secret=b"x" * 16)


def test_nobody_there_is_an_error_with_a_name():
    began = time.monotonic()
    with pytest.raises(RankError, match=r"waited 0\.5 s for shard 0 of 1 at 127.0.0.1:9 to welcome"):
        client.open("tcp://127.0.0.1:9", SPECS, secret=b"x" * 16, timeout_s=0.5)
    assert time.monotonic() - began < 10


def test_who_does_not_know_the_secret_or_has_other_tables_stays_out(tmp_path):
    with opened("tcp://1", SPECS, tmp_path) as join:
        address = "tcp://" + ",".join(f"{host}:{port}" for host, port in join()._transport._addresses)
        with pytest.raises(RankError, match="welcome"):
            client.open(address, SPECS, secret=b"y" * 16, timeout_s=0.5)
        with pytest.raises(ConfigError, match="tables differ"):
            client.open(address, SPECS[:1], secret=b"a long enough secret for a test")
        with pytest.raises(ConfigError, match="sync differ"):
            client.open(address, SPECS, secret=b"a long enough secret for a test", settings=Settings(sync="bsp"))


def test_rows_over_tcp_may_be_smaller(tmp_path):
    keys = np.arange(400)
    spec = TableSpec("wide", 64, Optimizer(name="sgd", rate=1.0), scale=1.0)
    exact = plain.Plain(spec).pull(keys)[0]
    with opened("tcp://2", [spec], tmp_path) as join:
        for worker, (coding, most) in enumerate((("bf16", 2**-8), ("int8", 1 / 250))):
            wide = join(worker, coding=coding).table("wide")
            rows = wide.pull(keys)[0]
            scale = abs(exact) if coding == "bf16" else abs(exact).max(axis=1, keepdims=True)
            assert 0 < (abs(rows - exact) / scale).max() <= most
        grads = np.full((400, 64), 0.001, np.float32)
        grads[:, 0] = 1.0
        for _ in range(20):
            wide.push(keys, grads)
        moved = exact - join(2).table("wide").pull(keys)[0]
        assert abs(moved[:, 1:].mean() / 20 - 0.001) < 0.0001  # a seventh of the step of int8: lost, if it were not at random
