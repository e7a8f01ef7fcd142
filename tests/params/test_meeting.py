"""Workers of `bsp` who meet before their one step, on shards without sockets or clocks."""

import numpy as np
import pytest

from gyral.params import wire
from gyral.params.meeting import met
from gyral.params.shard import Settings, Shard
from gyral.params.spec import Optimizer, TableSpec
from gyral.params.table import Table

from .test_shard import Said

SPEC = TableSpec("dense", 4, Optimizer(name="sgd", rate=1.0), init="zero")
KEYS = np.arange(300, dtype=np.int64)


def shards(num, workers=2):
    return [Shard([SPEC], at, num, Settings("bsp", workers, 1e6, 1e6, 1e9), Table, None, 0.0, lambda: 5.0) for at in range(num)]


def joined(shard, worker):
    session = Said(shard)
    session.hello(worker)
    return session


def owned(shard):
    from gyral.params.hashing_kernel import buckets_of

    buckets = np.empty(len(KEYS), np.uint16)
    buckets_of(KEYS, np.uint64(SPEC.salt), buckets)
    return shard.owned[buckets] != 0


def asked(session, clock, body):
    session.ask(lambda number: wire.Ask(number, "meet", clock, body))


def told(session):
    return [head.body for head, _ in session.heads if isinstance(head, wire.Told)]


@pytest.mark.parametrize("num", [1, 3])
def test_all_hear_all_and_the_norm_of_the_sum_has_the_same_bits_on_any_shards(num):
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(2, 300, 4)).astype(np.float32)
    answers = {0: [], 1: []}
    places = shards(num)
    for shard in places:
        mine, pair = owned(shard), [joined(shard, worker) for worker in (0, 1)]
        for worker, session in enumerate(pair):
            session.push(worker + 7, KEYS[mine], grads=grads[worker][mine])
            session.push(worker + 7, KEYS[mine], grads=grads[worker][mine])  # comes again: counts once
        asked(pair[1], 0, b"one")
        assert not told(pair[1])  # the other is not there
        asked(pair[0], 0, b"zero")
        for worker, session in enumerate(pair):
            answers[worker] += told(session)
        for session in pair:
            session.ask(lambda number: wire.Tick(number, 1, 0.5, b"done"))
    first, second = met(answers[0]), met(answers[1])
    assert first == second and first.said == [b"zero", b"one"] and not first.decided
    total = (grads[0] + grads[1]).astype(np.float64)
    assert first.norm == pytest.approx(np.sqrt((total**2).sum()), rel=1e-6)
    NORMS.add(first.norm)
    assert len(NORMS) == 1
    for shard in places:
        mine = owned(shard)
        rows = shard.tables[0].table.pull(KEYS[mine])[0]
        assert np.allclose(rows, -0.5 * total[mine], atol=1e-6)


NORMS = set()


def test_a_step_that_is_not_learned_from_is_over_all_the_same():
    (shard,) = shards(1, workers=1)
    one = joined(shard, 0)
    one.push(1, KEYS)
    one.ask(lambda number: wire.Tick(number, 1, 0.0))
    one.push(1, KEYS, clock=1)  # comes again
    one.ask(lambda number: wire.Tick(number, 2))
    assert not one.pull(KEYS, clock=2).any()


def test_who_comes_late_hears_what_the_others_decided():
    """A shard came back: one worker has gone on, and sends again what it pushed and decided."""
    (shard,) = shards(1)
    one, two = joined(shard, 0), joined(shard, 1)
    one.push(3, KEYS)
    two.push(4, KEYS)
    one.ask(lambda number: wire.Tick(number, 1, 0.25, b"agreed"))
    asked(two, 0, b"two")
    answer = met(told(two))
    assert answer.decided == b"agreed" and answer.said == [b"two"]
    two.ask(lambda number: wire.Tick(number, 1, 0.25, b"agreed"))
    assert (two.pull(KEYS, clock=1) == -0.5).all()
