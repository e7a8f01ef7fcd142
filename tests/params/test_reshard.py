"""Buckets that move while workers push: each has one owner at any moment, every push counts once, whoever is killed."""

import itertools

import numpy as np
import pytest

from gyral.params import ownership, reshard
from gyral.params.moving import Ask
from gyral.params.spec import Optimizer, TableSpec

from . import crashing

COUNTS = TableSpec("counts", 2, Optimizer(name="sgd", rate=1.0), init="zero")
LEARNED = TableSpec("learned", 3, Optimizer(name="adam", rate=0.1))
GIVER = ("given", "committing", "committed", "left")
TAKER = ("staging", "staged", "taking", "part", "taken")
WRITES = ("params.cut.written", "params.cut.synced", "params.cut.named", "params.cut.durable")


@pytest.fixture
def deaths(monkeypatch):
    monkeypatch.setattr("gyral.params.client.AWAY_S", 1e9)  # the world has one thread
    monkeypatch.setattr(reshard, "AGAIN_S", 0.0)
    monkeypatch.setattr(reshard, "SETTLE_S", 0.0)
    monkeypatch.setattr(reshard, "MOST_BUCKETS", 600)
    return crashing.Deaths(monkeypatch)


class Workers:
    """Push +1 for random keys between any two words of the mover, and count what was pushed."""

    def __init__(self, world, num=2):
        self.clients = [crashing.joined(world, worker) for worker in range(num)]
        self.random, self.pushed = np.random.default_rng(5), np.zeros(3000, np.int64)
        self.step = itertools.count()
        self.open = []

    def push(self):
        client = self.clients[next(self.step) % len(self.clients)]
        keys = self.random.integers(0, 3000, 150)
        self.open.append(client.table("counts").push_async(keys, np.ones((150, 2), np.float32)))
        np.add.at(self.pushed, keys, 1)

    def check(self):
        for each in self.open:
            each.result()
        for client in self.clients:
            client.flush()
            rows, _ = client.table("counts").pull(np.arange(3000))
            assert np.array_equal(-rows, np.stack([self.pushed] * 2, axis=1))

    def close(self):
        for client in self.clients:
            client.close()


class Busy(reshard.Mover):
    """A mover whose shards get pushes between its words."""

    workers = world = None

    def say(self, shard, what, ask):
        self.workers.push()
        for bucket in (0, 1365, 1400, 2047, 2048, 4095):
            assert len(self.world.owners(bucket)) <= 1
        return super().say(shard, what, ask)


def one_owner_each(world, num):
    owned = np.stack([shard.owned for shard in world.shards])
    assert (owned.sum(axis=0) == 1).all()
    assert np.array_equal(owned.argmax(axis=0), ownership.owners_of(world.shards[0].words))
    assert owned.sum(axis=1)[:num].max() - owned.sum(axis=1)[:num].min() <= 1 and not owned[num:].any()


def moved(tmp_path, deaths, monkeypatch, victim=None, point="", count=1):
    world = crashing.World(tmp_path, [COUNTS, LEARNED], 2, deaths)
    workers = Workers(world)
    Busy.workers, Busy.world = workers, world
    monkeypatch.setattr(reshard, "Mover", Busy)
    for _ in range(5):
        workers.push()
    deaths.plan(victim, point, count)
    done = workers.clients[0].reshard(3)
    one_owner_each(world, 3)
    assert done.buckets >= 1365
    workers.check()
    deaths.plan(victim, point, count)
    workers.clients[1].reshard(2)
    one_owner_each(world, 2)
    workers.check()
    assert [shard.moves.is_giving for shard in world.shards] == [False] * 3
    assert not list(tmp_path.glob("*/moves/*.move"))
    workers.close()
    again = crashing.World(tmp_path, [COUNTS, LEARNED], 2, deaths)
    again.shards.append(again.made(2))
    one_owner_each(again, 2)
    late = crashing.joined(again, 7)
    rows, _ = late.table("counts").pull(np.arange(3000))
    assert np.array_equal(-rows, np.stack([workers.pushed] * 2, axis=1))
    late.close()
    return world, done


def test_two_three_two_shards_while_workers_push(tmp_path, deaths, monkeypatch):
    world, done = moved(tmp_path, deaths, monkeypatch)
    assert done.again == 0 and done.buckets == 1365 and world.deaths_seen == 0
    points = {name for _, name in deaths.seen if name.startswith("params.move.")}
    assert points == {f"params.move.{name}" for name in GIVER + TAKER}  # no point is missing below


def test_what_a_move_that_came_to_nothing_left_is_never_taken(tmp_path, deaths):
    """A parcel is staged, its giver dies before the commit, goes on and makes pushes durable; then the move is made again."""
    world = crashing.World(tmp_path, [COUNTS], 2, deaths)
    keys, ones = np.arange(3000), np.ones((3000, 2), np.float32)
    with crashing.joined(world, 0) as worker, crashing.joined(world, -1) as looks, crashing.joined(world, -1) as late:
        worker.table("counts").push(keys, ones)
        deaths.plan(0, "params.move.committing")
        mover = reshard.Mover(looks)
        buckets = np.arange(1000)
        assert mover.move(0, 1, buckets) == 0 and world.deaths_seen == 1
        assert len(list(tmp_path.glob("shard1/moves/*.move"))) == 1
        for _ in range(3):
            worker.table("counts").push(keys, ones)
            worker.flush()
        careless = reshard.Mover(late)  # one that does not ask the taker which epochs it has seen
        told = careless.say(0, "give", Ask(token="c" * 16, buckets=buckets.astype(np.uint16).tobytes(), taker=1))
        assert not careless._staged(0, 1, "c" * 16, told["pieces"])
        careless.say(0, "abort", Ask(token="c" * 16))
        assert mover.move(0, 1, buckets) > 0
        assert np.array_equal(-worker.table("counts").pull(keys)[0], 4 * ones)
        assert not list(tmp_path.glob("shard1/moves/*.move"))


@pytest.mark.parametrize("point", GIVER)
def test_a_giver_killed_at_any_point_of_a_move(point, tmp_path, deaths, monkeypatch):
    world, _ = moved(tmp_path, deaths, monkeypatch, 0, f"params.move.{point}")
    assert world.deaths_seen == 1


@pytest.mark.parametrize("point", TAKER)
def test_a_taker_killed_at_any_point_of_a_move(point, tmp_path, deaths, monkeypatch):
    world, _ = moved(tmp_path, deaths, monkeypatch, 2, f"params.move.{point}", 1 + (point == "part"))
    assert world.deaths_seen == 1


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("point", WRITES)
def test_either_killed_while_it_writes_to_its_log(victim, point, tmp_path, deaths, monkeypatch):
    world, _ = moved(tmp_path, deaths, monkeypatch, victim, point, 5)
    assert world.deaths_seen >= 1
