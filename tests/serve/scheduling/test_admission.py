import numpy as np
import pytest
from policies import Varied
from simulator import arrivals, noisy, simulate

from gyral.serve.scheduling.admission import Admission, retry_s
from gyral.serve.scheduling.cost import Curve
from gyral.serve.scheduling.dispatch import Dispatcher
from gyral.serve.scheduling.router import Variant
from gyral.serve.scheduling.tiers import BUILT_IN

CURVE = Curve(0.004, 0.0005)
ONE = [Variant("fp32", 1.0, 1, 1, {"server": CURVE})]


def admission(max_waiting=8192):
    return Admission(Dispatcher(ONE, BUILT_IN, max_waiting=max_waiting), lambda: 0.5)


def test_a_deadline_that_an_empty_server_does_not_keep_is_refused_at_once():
    refusal = admission().offer(1, 10.002, 10.0)
    assert refusal.status == 504 and refusal.retry_s == 0
    assert "2 ms are left, an answer takes 4.5" in refusal.why
    assert admission().offer(1, 10.0, 11.0).status == 504


def test_beyond_the_limit_one_is_told_when_to_come_back():
    door = admission(max_waiting=5000)
    for id in range(5000):
        assert door.offer(id, 100.0, id * 1e-9) is None
    refused = door.offer(5000, 100.0, 0.01).raised()
    assert refused.status == 503
    assert dict(refused.headers)[b"retry-after"] == b"4"  # 5,000 at 1,600 a second
    assert "4 s" in refused.hint


def test_a_floor_that_nothing_reaches_is_the_clients_mistake():
    refusal = admission().offer(1, 10.0, 0.0, floor=2.0)
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
