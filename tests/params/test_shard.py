"""A shard without sockets and clocks: what it applies, refuses, writes, gives away and takes."""

import numpy as np
import pytest

from gyral.params import cutting, wire
from gyral.params.consistency import Fenced
from gyral.params.held import Entry, Held, Moved
from gyral.params.shard import Session, Settings, Shard, even_map
from gyral.params.spec import BUCKETS, Optimizer, TableSpec
from gyral.params.table import Table

from . import plain, simple_keep

COUNTS = TableSpec("counts", 2, Optimizer(name="sgd", rate=1.0), init="zero")
LEARNED = TableSpec("learned", 3, Optimizer(name="adam", rate=0.1))
KEYS = np.arange(200, dtype=np.int64) - 77


class Said(Session):
    """A session that remembers."""

    def __init__(self, shard, now=0.0):
        self.shard, self.now, self.heads, self.number = shard, now, [], 0

    def put(self, head, arrays):
        self.heads.append((head, [each.copy() for each in arrays]))

    def ask(self, make, *arrays, now=None):
        """Hand it a frame; the last answer."""
        self.shard.handle(self, make(self.number), arrays, self.now if now is None else now)
        self.number += 1
        return self.heads[-1] if self.heads else None

    def hello(self, worker=0, epoch=1, **other):
        fields = {"sync": self.shard.settings.sync, "digest": self.shard.digest} | other
        return self.ask(lambda number: wire.Hello(number, worker, epoch, **fields))[0]

    def push(self, seq, keys=KEYS, value=1.0, clock=0, table=0, at=0, version=0, grads=None):
        dim = self.shard.specs[table].dim
        grads = np.full((len(keys), dim), value, np.float32) if grads is None else grads
        return self.ask(lambda number: wire.Push(number, table, clock, seq, at, version, len(keys)), keys, grads)[0]

    def pull(self, keys=KEYS, clock=0, table=0, version=0):
        head, arrays = self.ask(lambda number: wire.Pull(number, table, clock, version, len(keys)), keys)
        return arrays[0] if isinstance(head, wire.Rows) else head


def shard(sync="async", num=1, number=0, specs=(COUNTS, LEARNED), keep=None, workers=1, **settings):
    made = Settings(sync=sync, workers=workers, cut_s=1e9, **settings)
    return Shard(list(specs), number, num, made, plain.Plain, keep, 0.0, lambda: 5.0)


def joined(on, worker=0, epoch=1):
    session = Said(on)
    assert isinstance(session.hello(worker, epoch), wire.Welcome)
    return session


def test_a_push_that_comes_again_changes_nothing():
    one = joined(shard())
    one.push(1)
    assert one.push(1, value=50.0).durable == 1
    one.push(2, KEYS[:10], value=2.0)
    assert (one.pull() == np.where(np.arange(200) < 10, -3.0, -1.0)[:, None]).all()
    again = joined(one.shard)  # another link of the same incarnation
    assert one.is_closed
    again.push(1)
    again.push(2, KEYS[:10])
    again.push(2, KEYS[10:20])  # the half that another shard had is not what this one has
    assert (again.pull()[:10] == -3.0).all()


def test_a_push_is_new_to_the_buckets_that_have_not_had_it():
    held = Held(plain.Plain(COUNTS), np.ones(BUCKETS, np.uint8))
    half = KEYS[:100]
    held.push(Entry(0, 7, 3, 0, half, np.ones((100, 2), np.float32)), 0.0)
    had = {plain.bucket_of(key, COUNTS.salt) for key in half.tolist()}
    fresh = np.array([plain.bucket_of(key, COUNTS.salt) not in had for key in KEYS.tolist()])
    assert 50 < fresh.sum() <= 100
    assert held.push(Entry(0, 7, 3, 0, KEYS, np.ones((200, 2), np.float32)), 0.0) == fresh.sum()
    assert held.push(Entry(0, 8, 3, 0, KEYS, np.ones((200, 2), np.float32)), 0.0) == 200  # of another worker
    rows, _ = held.table.pull(KEYS)
    assert (rows[:100] == -2).all() and (rows[100:][fresh[100:]] == -2).all()


@pytest.mark.parametrize("jump", [2, 0, -1])
def test_a_frame_lost_repeated_or_out_of_order_ends_the_link(jump):
    one = joined(shard())
    one.push(1)
    one.number += jump - 1
    one.push(2, value=9.0)
    assert one.is_closed and one.shard.counts["gaps"] == 1
    again = joined(one.shard)
    assert (again.pull() == -1).all()


def test_what_does_not_belong_together_is_refused_at_hello():
    for other in ({"digest": "x"}, {"sync": "bsp"}, {"protocol": 9}):
        session = Said(shard())
        said = session.hello(**other)
        assert said.kind == "config" and session.is_closed and "differ" in said.what


def test_frames_before_a_hello_or_of_an_unknown_table_are_refused():
    session = Said(shard())
    assert session.ask(wire.Beat)[0].kind == "config" and session.is_closed
    one = joined(shard())
    assert one.pull(table=0).shape == (200, 2)
    head = lambda number: wire.Pull(number, 5, 0, 0, 200)  # noqa: E731
    assert one.ask(head, KEYS)[0].kind == "input" and not one.is_closed


def test_an_old_incarnation_is_fenced():
    on = shard()
    old, new = joined(on, epoch=1), joined(on, epoch=2)
    assert old.is_closed
    old.is_closed = False  # one that was stopped, and has not noticed
    assert old.push(1).kind == "fenced" and old.is_closed
    assert Said(on).hello(epoch=1).kind == "fenced"
    assert (new.pull() == 0).all()


def test_one_whose_lease_ran_out_is_fenced_and_blocks_nobody():
    on = shard("ssp:1", workers=2, lease_s=10.0, join_s=10.0)
    one, other = joined(on), joined(on, worker=1)
    one.now = 8.0
    assert isinstance(one.pull(clock=2), wire.Parked)
    assert "worker 1 is at clock 0" in one.heads[-1][0].why
    on.work(9.0)
    assert isinstance(one.heads[-1][0], wire.Parked)
    on.work(11.0)
    assert isinstance(one.heads[-1][0], wire.Rows) and on.counts["expired"] == 1
    other.now = 12.0
    assert other.push(1).kind == "fenced"
    assert isinstance(Said(on, 12.0).hello(1, 2), wire.Welcome)


def test_a_gradient_that_is_no_number_changes_nothing():
    for sync in ("async", "bsp"):
        one = joined(shard(sync))
        grads = np.ones((200, 2), np.float32)
        grads[199, 1] = np.nan
        if sync == "async":
            one.shard.tables[0].table = Table(COUNTS)
        assert one.push(1, grads=grads).kind == "input"
        one.ask(lambda number: wire.Tick(number, 1))
        assert (one.pull(clock=1) == 0).all()
        one.push(2, clock=1)
        one.ask(lambda number: wire.Tick(number, 2))
        assert (one.pull(clock=2) == -1).all()


def bsp(num, orders, seed=3, duplicate=False):
    """Rows after three clocks of three workers whose frames come in some order, over `num` shards."""
    rng = np.random.default_rng(seed)
    grads = rng.normal(size=(3, 3, 2, 200, 3)).astype(np.float32)
    times = rng.integers(1, 100, (3, 3, 2))
    rows = np.zeros((200, 3), np.float32)
    for number in range(num):
        on = shard("bsp", num, number, specs=[LEARNED], workers=3)
        mine = np.array([on.owned[plain.bucket_of(key, LEARNED.salt)] for key in KEYS.tolist()], bool)
        sessions = [joined(on, worker) for worker in range(3)]
        for clock, order in enumerate(orders):
            for worker in order:
                for part in range(2):
                    seq = clock * 2 + part + 1
                    for _ in range(1 + duplicate):
                        sessions[worker].push(
                            seq, KEYS[mine], clock=clock, at=int(times[clock, worker, part]),
                            grads=grads[clock, worker, part][mine],
                        )  # fmt: skip
                sessions[worker].ask(lambda number, clock=clock: wire.Tick(number, clock + 1))
        rows[mine] = sessions[0].pull(KEYS[mine], clock=3)
        assert dict(on.staleness.clocks) in ({0: 1}, {})
    expected = plain.Plain(LEARNED)
    for clock in range(3):
        every = [grads[clock, worker, part] for worker in range(3) for part in range(2)]
        expected.push(np.tile(KEYS, 6), np.concatenate(every))
    assert np.array_equal(rows, expected.pull(KEYS)[0])
    return rows.tobytes()


def test_bsp_depends_neither_on_shards_nor_on_who_comes_first():
    orders = [[(0, 1, 2)] * 3, [(2, 1, 0), (1, 0, 2), (2, 0, 1)]]
    assert len({bsp(num, order, duplicate=num == 2) for num in (1, 2, 7) for order in orders}) == 1


def test_the_newest_event_time_of_a_key_counts():
    on = shard("bsp", specs=[COUNTS], workers=2)
    one, other = joined(on), joined(on, 1)
    one.push(1, KEYS[:10], at=100)
    other.push(1, KEYS[5:15], at=50)
    for session in (one, other):
        session.ask(lambda number: wire.Tick(number, 1))
    table = on.tables[0].table
    expected = plain.Plain(COUNTS)
    expected.push(KEYS[:10], np.ones((10, 2), np.float32), 100)
    expected.push(KEYS[10:15], np.ones((5, 2), np.float32), 50)
    buckets = sorted({plain.bucket_of(key, COUNTS.salt) for key in KEYS[:15].tolist()})

    def stamps(of):
        return {key: stamp for each in buckets for key, stamp in zip(*map(list, of.export(each)[0][:2]), strict=True)}

    assert stamps(table) == stamps(expected)


def settled(on, now=0.0):
    """Have a round of its cut written."""
    on.cutter.hurry()
    for _ in range(1000):
        on.work(now)
        on.cutter.settle()
        if on.cutter._round is None and not on.cutter._urgent:
            return
    raise AssertionError("a round that does not end")


def test_a_shard_comes_back_as_its_disk_has_it(tmp_path):
    on = shard(keep=simple_keep.Simple(tmp_path))
    one = joined(on, epoch=4)
    assert one.push(1).durable == 0
    one.push(2, table=1, value=0.5)
    one.ask(lambda number: wire.Tick(number, 3))
    settled(on)
    assert one.push(3, KEYS[:50]).durable == 2
    rows = one.pull(table=1)
    again = shard(keep=simple_keep.Simple(tmp_path))  # killed: the last push was in no cut
    assert again.clocks.members[0].ticked == 0 and Said(again).hello(epoch=3).kind == "fenced"
    session = Said(again)
    welcome = session.hello(epoch=4)
    assert welcome.seq == 2 and welcome.keeps
    assert (session.pull() == -1).all() and np.array_equal(session.pull(table=1), rows)
    for seq, keys, table in ((1, KEYS, 0), (2, KEYS, 1), (3, KEYS[:50], 0)):
        session.push(seq, keys, table=table)
    assert (session.pull() == np.where(np.arange(200) < 50, -2.0, -1.0)[:, None]).all()
    assert np.array_equal(session.pull(table=1), rows)


def test_buckets_that_move_keep_what_they_have_had(tmp_path):
    keeps = [simple_keep.Simple(tmp_path / str(number)) for number in range(2)]
    shards = [shard(num=2, number=number, specs=[COUNTS], keep=keeps[number]) for number in range(2)]
    sides = [joined(each) for each in shards]
    mine = [np.array([plain.bucket_of(key, COUNTS.salt) // 2048 == n for key in KEYS.tolist()]) for n in range(2)]
    for number, side in enumerate(sides):
        side.push(1, KEYS[mine[number]])
        settled(shards[number])
    first = KEYS[np.array([plain.bucket_of(key, COUNTS.salt) < 1024 for key in KEYS.tolist()])]
    assert sides[1].push(2, first, version=1).kind == "moved" and sides[1].is_closed
    owners = even_map(2)
    owners[:1024] = 1
    assert shards[1].cutter.durable(0) == 1
    shards[1].take(shards[0].give(0, 1024), version=1)
    assert shards[1].cutter.durable(0) == 0 == shards[1].received[0]  # until its worker has sent again what these may lack
    for each in shards:
        each.remap(owners, 1)
    with pytest.raises(Fenced):
        shards[0].remap(owners, 1)
    sides = [joined(each) for each in shards]
    refused = sides[0].push(1, KEYS[mine[0]])
    assert refused.kind == "moved" and refused.map_version == 1 and refused.owners == owners.tobytes()
    sides[1].push(1, first, version=1, value=7.0)
    assert (sides[1].pull(first, version=1) == -1).all()
    sides[1].push(2, first, version=1)
    assert (sides[1].pull(first, version=1) == -2).all()
    assert len(shards[0].tables[0].table) + len(shards[1].tables[0].table) == len(KEYS)
    for each in shards:
        settled(each)
    back = [shard(num=2, number=n, specs=[COUNTS], keep=simple_keep.Simple(tmp_path / str(n))) for n in range(2)]
    assert [each.map_version for each in back] == [1, 1] and not len(back[0].tables[0].table.pull(first)[1].nonzero()[0])
    assert (joined(back[1]).pull(first, version=1) == -2).all()
    with pytest.raises(Moved):
        shards[0].tables[0].check(first)


def test_pushes_that_wait_for_their_clock_move_along():
    shards = [shard("bsp", num=2, number=number, specs=[COUNTS]) for number in range(2)]
    first = KEYS[np.array([plain.bucket_of(key, COUNTS.salt) < 1024 for key in KEYS.tolist()])]
    sides = [joined(each) for each in shards]
    sides[0].push(1, first)
    owners = even_map(2)
    owners[:1024] = 1
    shards[1].take(shards[0].give(0, 1024), version=1)
    for each in shards:
        each.remap(owners, 1)
    assert all(side.is_closed for side in sides)
    sides = [joined(each) for each in shards]
    sides[1].push(1, first, version=1)  # sent again, as the client does
    for side in sides:
        side.ask(lambda number: wire.Tick(number, 1))
    assert (sides[1].pull(first, clock=1, version=1) == -1).all()
    assert len(shards[0].tables[0].table) == 0


def test_a_cut_torn_over_two_clocks_is_replayed_clock_by_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(cutting, "PART_ROWS", 100)
    rng = np.random.default_rng(8)
    grads = rng.normal(size=(3, 2, 200, 3)).astype(np.float32)
    oracle = plain.Plain(LEARNED)
    for clock in range(3):
        oracle.push(np.tile(KEYS, 2), grads[clock].reshape(-1, 3))

    def clocks(sessions, first, last):
        for clock in range(first, last):
            for worker, session in enumerate(sessions):
                session.push(clock + 1, clock=clock, grads=grads[clock, worker])
                session.ask(lambda number, clock=clock: wire.Tick(number, clock + 1))

    on = shard("bsp", specs=[LEARNED], keep=simple_keep.Simple(tmp_path), workers=2)
    sessions = [joined(on, worker) for worker in range(2)]
    clocks(sessions, 0, 1)
    on.cutter.hurry()
    for first in (1, 2):  # parts of one round, and clocks that end in between
        on.work(0.0)
        on.cutter.settle()
        clocks(sessions, first, first + 1)
    on.work(0.0)
    on.cutter.settle()
    assert on.cutter.durable(0) == 0 and len(list(tmp_path.glob("*.npz"))) == 3
    again = shard("bsp", specs=[LEARNED], keep=simple_keep.Simple(tmp_path), workers=2)  # killed in the midst of the round
    sessions = [joined(again, worker) for worker in range(2)]
    assert isinstance(sessions[0].pull(clock=1), wire.Parked)
    clocks(sessions, 0, 3)
    assert np.array_equal(sessions[1].pull(clock=3), oracle.pull(KEYS)[0])
