import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import Varied
from simulator import arrivals, noisy, simulate

from gyral.model.tiers import BUILT_IN
from gyral.serve.scheduling.admission import Admission, retry_s
from gyral.serve.scheduling.batch import Waiting
from gyral.serve.scheduling.cost import Curve
from gyral.serve.scheduling.dispatch import Dispatcher
from gyral.serve.scheduling.router import Variant

CURVE = Curve(0.004, 0.0005)
ONE = [Variant("fp32", 1.0, 1, 1, {"server": CURVE})]


def admission(max_waiting=8192):
    return Admission(Dispatcher(ONE, BUILT_IN, max_waiting=max_waiting), lambda: 0.5)


def test_a_deadline_that_an_empty_server_does_not_keep_is_refused_at_once():
    refusal = admission().offer(Waiting(1, 10.002), 10.0)
    assert refusal.status == 504 and refusal.retry_s == 0
    assert "2 ms are left, an answer takes 4.5" in refusal.why
    assert admission().offer(Waiting(1, 10.0), 11.0).status == 504


def test_beyond_the_limit_one_is_told_when_to_come_back():
    door = admission(max_waiting=5000)
    for id in range(5000):
        assert door.offer(Waiting(id, 100.0), id * 1e-9) is None
    refused = door.offer(Waiting(5000, 100.0), 0.01).raised()
    assert refused.status == 503
    assert dict(refused.headers)[b"retry-after"] == b"4"  # 5,000 at 1,600 a second
    assert "4 s" in refused.hint


def test_a_floor_that_nothing_reaches_is_the_clients_mistake():
    refusal = admission().offer(Waiting(1, 10.0, floor=2.0), 0.0)
    assert refusal.status == 400 and "min_quality" in refusal.why


def test_below_capacity_nobody_is_refused():
    requests = arrivals(0.6 * CURVE.rate(32), 3, seed=0)
    outcome = simulate(requests, Varied(ONE), noisy([CURVE]))
    assert outcome.refused == 0


def test_overload_is_refused_before_the_queue_grows_and_costs_no_goodput():
    requests = arrivals(3 * CURVE.rate(32), 3, seed=0)
    longest = []

    class Watched(Varied):
        def arrive(self, request, now):
            longest.append(len(self.dispatcher))
            return super().arrive(request, now)

    watched = simulate(requests, Watched(ONE), noisy([CURVE]))
    alone = simulate(requests, Varied(ONE, admits=False), noisy([CURVE]))
    assert watched.refused >= 0.6 * (watched.refused + watched.dropped)
    assert watched.goodput >= 0.97 * alone.goodput
    assert max(longest) <= 2.5 * 0.5 * CURVE.rate(32)


@pytest.mark.parametrize(
    ("drain", "load", "draw", "told"), [(0, 0, 0.5, 1), (10, 1, 0.5, 10), (10, 2, 0.5, 20), (1e9, 9, 1, 60)]
)
def test_retry_after_is_the_backlog_in_seconds(drain, load, draw, told):
    assert retry_s(drain, load, draw) == told
    assert retry_s(float("nan"), load, draw) == 60


def test_clients_are_spread():
    assert len({retry_s(20, 1, draw) for draw in np.linspace(0, 0.99, 50)}) >= 5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 0.05) | st.floats(allow_nan=True, allow_infinity=True),
            st.floats(0, 0.5) | st.floats(allow_nan=True, allow_infinity=True),
            st.sampled_from([-math.inf, 0.9, 0.96, 1.0, 2.0, math.nan]),
            st.integers(-2, 5),
            st.booleans(),
        ),
        max_size=80,
    )
)
def test_each_request_ends_in_one_way_whatever_is_asked_and_whatever_the_clock_says(steps):
    worse = Variant("int8", 0.95, 1, 1, {"server": Curve(0.0016, 0.00014)}, max_batch=3)
    dispatcher = Dispatcher([*ONE, worse], BUILT_IN, max_waiting=20)
    door, now, waiting, ended = Admission(dispatcher, lambda: 0.5), 0.0, set(), []
    for id, (moved, slack, floor, priority, is_taken) in enumerate(steps):
        now = now + moved
        refusal = door.offer(Waiting(id, now + slack, f"k{id % 3}", priority, floor=floor), now)
        if refusal is None:
            waiting.add(id)
        else:
            error = refusal.raised()
            assert error.status in (400, 503, 504) and error.what and error.hint
        if is_taken and (batch := dispatcher.take(now)):
            assert len(batch.requests) <= batch.variant.max_batch
            ended += [one.id for one in batch.requests]
        ended += [gone.waiting.id for gone in dispatcher.dropped]
        dispatcher.dropped.clear()
        assert len(ended) == len(set(ended)) and len(dispatcher) == len(waiting - set(ended))
    later = now if math.isfinite(now) else 0.0
    for _ in range(100):
        later += 0.01
        if batch := dispatcher.take(later):
            ended += [one.id for one in batch.requests]
    ended += [gone.waiting.id for gone in dispatcher.dropped]
    assert sorted(ended) == sorted(waiting)
