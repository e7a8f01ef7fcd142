import math
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gyral.serve.scheduling.batch import PATIENCE_S, Queue, Waiting
from gyral.serve.scheduling.cost import Cost, Curve

CURVE = Curve(0.004, 0.0005)


def drain(queue, cost, now=0.0):
    """Take until nobody waits, each batch when the one before is done; ids by when they are answered."""
    answered = {}
    while len(queue):
        batch = queue.take(now, cost)
        if batch is None:
            break
        now += cost.seconds(len(batch.requests))
        answered |= {one.id: now for one in batch.requests}
    return answered


def test_those_who_wait_go_together_and_at_once():
    queue, cost = Queue(8), Cost(CURVE, 8)
    assert queue.take(0.0, cost) is None
    for id in range(11):
        queue.push(Waiting(id, 1.0), 0.0)
    assert [one.id for one in queue.take(0.0, cost).requests] == list(range(8))
    assert [one.id for one in queue.take(0.01, cost).requests] == [8, 9, 10]
    assert queue.take(0.02, cost) is None and not queue.dropped


def test_a_tight_one_gets_a_small_batch_while_the_worker_keeps_up():
    queue, cost = Queue(32), Cost(CURVE, 32)
    queue.push(Waiting(0, 0.008), 0.0)
    for id in range(1, 30):
        queue.push(Waiting(id, 0.5), 0.0)
    first = [one.id for one in queue.take(0.0, cost).requests]
    assert 0 in first and len(first) < 10
    assert not queue.dropped


def test_a_tight_one_is_given_up_for_full_batches_when_more_comes_than_can_be_computed():
    queue, cost = Queue(32), Cost(CURVE, 32)
    for id in range(3000):
        queue.push(Waiting(id, id / 4000 + (0.012 if id % 10 == 0 else 0.5)), id / 4000)
    now = 3000 / 4000
    assert queue.load(cost) > 1.5
    assert len(queue.take(now, cost).requests) == 32
    assert {gone.why for gone in queue.dropped} == {"hopeless", "crowded"}
    assert all(gone.waiting.deadline < now + cost.safe(32) for gone in queue.dropped)


REQUEST = st.tuples(
    st.sampled_from(["push", "push", "push", "take", "cancel", "expire"]),
    st.floats(allow_nan=True, allow_infinity=True, width=32) | st.floats(0, 0.2),  # how the clock moves
    st.floats(0, 0.5) | st.just(math.inf) | st.floats(allow_nan=True, allow_infinity=True),
    st.integers(0, 5),
    st.integers(-1, 4),
    st.floats(0, 40) | st.floats(allow_nan=True, allow_infinity=True),
)


PUSHED = ("push", 0.0, math.inf, 5, 1, 12.0)
AT_NO_TIME = [("push", -math.inf, 0.0, 0, 0, 25.0), PUSHED, PUSHED, ("take", 0.0, math.inf, 3, 1, 39.0)]


@settings(max_examples=150, deadline=None)
@given(st.lists(REQUEST, max_size=120), st.integers(1, 6))
@example(AT_NO_TIME, 3)
def test_nothing_is_lost_or_answered_twice_whatever_the_clock_says(steps, max_batch):
    queue, cost = Queue(max_batch, max_waiting=40), Cost(CURVE, max_batch)
    now, ids, waiting, ended = 0.0, 0, set(), []
    for what, moved, slack, key, priority, size in steps:
        now = now + moved
        if what == "push":
            ids += 1
            if queue.push(Waiting(ids, now + slack, f"key{key}", priority, size / 7, size), now):
                waiting.add(ids)
            else:
                assert len(waiting) == 40
        elif what == "cancel" and waiting:
            one = min(waiting)
            assert queue.cancel(one) and not queue.cancel(one)
            waiting.discard(one)
        elif what == "expire":
            queue.expire(now, cost)
        elif what == "take":
            batch = queue.take(now, cost)
            if batch is not None:
                assert 1 <= len(batch.requests) <= max_batch
                ended += [one.id for one in batch.requests]
        ended += [gone.waiting.id for gone in queue.dropped]
        queue.dropped.clear()
        waiting -= set(ended)
        assert len(ended) == len(set(ended)) and len(queue) == len(waiting)
    for _ in range(200):
        if not len(queue):
            break
        now = now + 0.01 if math.isfinite(now) else 1e9
        batch = queue.take(now, cost)
        ended += [one.id for one in batch.requests] if batch else []
        ended += [gone.waiting.id for gone in queue.dropped]
        queue.dropped.clear()
    assert not len(queue) and len(ended) == len(set(ended)) and waiting <= set(ended)


def best_possible(deadlines, cost, max_batch):
    """Most requests that can be answered in time when all are there at 0: every way to cut them into batches is tried."""
    count = len(deadlines)

    @cache
    def most(left, now):
        best = 0
        for group in range(1, 1 << count):
            if group & ~left or group.bit_count() > max_batch:
                continue
            end = now + cost.safe(group.bit_count())
            if all(deadlines[n] >= end for n in range(count) if group >> n & 1):
                best = max(best, group.bit_count() + most(left & ~group, round(end, 9)))
        return best

    return most((1 << count) - 1, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(4, 40), min_size=1, max_size=6), st.integers(1, 4))
def test_it_comes_close_to_the_best_of_all_ways_to_cut_a_few_requests(slack_ms, max_batch):
    cost = Cost(CURVE, max_batch)
    cost.margin = 1.0
    deadlines = [each / 1e3 for each in slack_ms]
    queue = Queue(max_batch)
    for id, deadline in enumerate(deadlines):
        queue.push(Waiting(id, deadline), 0.0)
    answered = drain(queue, cost)
    in_time = sum(answered.get(id, math.inf) <= deadline + 1e-9 for id, deadline in enumerate(deadlines))
    best = best_possible(tuple(deadlines), cost, max_batch)
    assert in_time <= best
    assert in_time >= best - 1


def test_on_average_it_is_within_five_percent_of_the_best_of_all_ways():
    rng = np.random.default_rng(0)
    reached = possible = 0
    for _ in range(60):
        max_batch = int(rng.integers(2, 5))
        cost = Cost(CURVE, max_batch)
        cost.margin = 1.0
        deadlines = rng.uniform(0.004, 0.03, int(rng.integers(2, 7))).round(4).tolist()
        queue = Queue(max_batch)
        for id, deadline in enumerate(deadlines):
            queue.push(Waiting(id, deadline), 0.0)
        answered = drain(queue, cost)
        reached += sum(answered.get(id, math.inf) <= deadline + 1e-9 for id, deadline in enumerate(deadlines))
        possible += best_possible(tuple(deadlines), cost, max_batch)
    assert reached >= 0.95 * possible


def overloaded(rates, seconds=4.0, *, weights=None, slack=0.3, max_batch=16, priorities=None, seed=0):
    """Poisson arrivals by key before one worker; answered in time by key."""
    rng = np.random.default_rng(seed)
    cost, queue = Cost(CURVE, max_batch), Queue(max_batch)
    came = sorted(
        (at, key) for key, rate in rates.items() for at in (rng.random(rng.poisson(rate * seconds)) * seconds).tolist()
    )
    in_time = dict.fromkeys(rates, 0)
    now, cursor = 0.0, 0
    while cursor < len(came):
        while cursor < len(came) and came[cursor][0] <= now:
            at, key = came[cursor]
            queue.push(Waiting(cursor, at + slack, key, (priorities or {}).get(key, 1), (weights or {}).get(key, 1)), at)
            cursor += 1
        batch = queue.take(now, cost)
        if batch is None:
            now = came[cursor][0] if cursor < len(came) else now
            continue
        now += cost.seconds(len(batch.requests))
        for one in batch.requests:
            in_time[one.key] += now <= one.deadline
    return in_time, cost.rate(max_batch) * seconds


def test_a_key_that_floods_takes_nothing_from_those_who_ask_for_less_than_their_share():
    in_time, possible = overloaded({"flood": 8000, "a": 100, "b": 200, "c": 300})
    assert sum(in_time.values()) >= 0.9 * possible
    for key, rate in (("a", 100), ("b", 200), ("c", 300)):
        assert in_time[key] >= 0.93 * rate * 4


def test_keys_that_all_ask_for_too_much_share_by_their_weights():
    in_time, _ = overloaded({"a": 2000, "b": 2000, "c": 6000}, weights={"a": 1, "b": 2, "c": 1}, slack=0.5)
    assert in_time["b"] / in_time["a"] == pytest.approx(2, rel=0.15)
    assert in_time["c"] / in_time["a"] == pytest.approx(1, rel=0.15)


def test_urgent_ones_go_first_and_the_others_do_not_starve():
    in_time, possible = overloaded({"urgent": 6000, "later": 500}, priorities={"urgent": 0, "later": 2})
    assert in_time["urgent"] >= 0.8 * possible
    assert in_time["later"] >= possible / 25
    calm, _ = overloaded({"urgent": 600, "later": 6000}, priorities={"urgent": 0, "later": 2})
    assert calm["urgent"] >= 0.97 * 600 * 4


def test_without_a_deadline_one_waits_no_longer_than_the_patience_of_the_queue():
    queue, cost = Queue(4), Cost(CURVE, 4)
    queue.push(Waiting(0), 0.0)
    now, id = 0.0, 1
    while len(queue) and now < 2 * PATIENCE_S:
        for _ in range(8):
            queue.push(Waiting(id, now + 0.05), now)
            id += 1
        batch = queue.take(now, cost)
        if any(one.id == 0 for one in batch.requests):
            break
        now += cost.seconds(4)
    assert now <= PATIENCE_S + 0.1
    assert not any(gone.waiting.id == 0 for gone in queue.dropped)


def test_a_request_waits_once_and_a_full_queue_says_so():
    queue = Queue(4, max_waiting=2)
    assert queue.push(Waiting(1, 1.0), 0.0)
    with pytest.raises(ValueError, match="waits already"):
        queue.push(Waiting(1, 1.0), 0.0)
    assert queue.push(Waiting(2, 1.0), 0.0)
    assert not queue.push(Waiting(3, 1.0), 0.0)
