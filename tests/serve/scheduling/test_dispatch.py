import math

import numpy as np
import pytest
from policies import Own, Varied
from simulator import Taken, arrivals, noisy, simulate

from gyral.model.tiers import BUILT_IN
from gyral.serve.scheduling.batch import Waiting
from gyral.serve.scheduling.cost import Curve
from gyral.serve.scheduling.dispatch import Dispatcher
from gyral.serve.scheduling.router import Variant

CURVES = [Curve(0.004, 0.0005), Curve(0.0016, 0.00014), Curve(0.0012, 0.0001)]
QUALITY = [1.0, 0.995, 0.97]
FULL = CURVES[0].rate(32)


def variants(count=3, off=1.3):
    """Variants whose measured curves are off: batches start slower and grow less than it is told."""
    made = [
        Variant(name, quality, 1, 1, {"server": Curve(curve.fixed_s * off, curve.each_s / off)})
        for name, quality, curve in zip(("fp32", "int8", "int4"), QUALITY, CURVES, strict=True)
    ]
    return made[:count]


@pytest.mark.parametrize("load", [1.5, 2.5])
def test_overload_without_variants_answers_nine_tenths_of_what_is_possible(load):
    requests = arrivals(load * FULL, 3, seed=1, keys=20)
    outcome = simulate(requests, Varied(variants(1)), noisy(CURVES))
    assert outcome.goodput >= 0.9 / load
    assert outcome.unanswered == 0
    assert outcome.in_time + outcome.late + outcome.refused + outcome.dropped == outcome.offered


def test_with_variants_nearly_all_are_answered_at_two_and_a_half_times_the_capacity():
    requests = arrivals(2.5 * FULL, 3, seed=1, keys=20)
    assert simulate(requests, Varied(variants()), noisy(CURVES)).goodput >= 0.95
    outcome = simulate(requests, Varied(variants()), noisy(CURVES, pauses=0))
    assert outcome.goodput >= 0.95
    assert np.array(QUALITY)[outcome.variant[outcome.on_time]].mean() >= 0.99


def test_at_three_times_the_capacity_goodput_stays_and_who_is_answered_is_answered_in_time():
    answered = {}
    for load in (0.7, 1.0, 1.5, 3.0):
        requests = arrivals(load * FULL, 3, seed=2)
        outcome = simulate(requests, Varied(variants(1)), noisy(CURVES))
        answered[load] = outcome.in_time / 3
        assert outcome.late_of_answered <= 0.01 or load < 3
    assert answered[3.0] >= 0.9 * max(answered.values())


def test_below_capacity_only_the_hopeless_are_given_up():
    why = []

    class Noting(Own):
        def take(self, now):
            batch = self.queue.take(now, self.cost)
            why.extend(gone.why for gone in self.queue.dropped)
            gone = [each.waiting.id for each in self.queue.dropped]
            self.queue.dropped.clear()
            return (Taken([one.id for one in batch.requests]) if batch else None), gone

    outcome = simulate(arrivals(0.5 * FULL, 3, seed=3), Noting(32, CURVES[0]), noisy(CURVES, pauses=0))
    assert outcome.goodput >= 0.99 and set(why) <= {"hopeless"}


def test_two_workers_answer_twice_as_many():
    one, two = (
        simulate(arrivals(3 * n * FULL, 2, seed=4), Varied(variants(1), workers=n), noisy(CURVES), workers=n).in_time
        for n in (1, 2)
    )
    assert two >= 1.8 * one


def test_a_floor_is_kept_whatever_the_load():
    dispatcher = Dispatcher(variants(), BUILT_IN)
    rng = np.random.default_rng(0)
    now, strict, seen = 0.0, set(), {"fp32": 0, "int8": 0, "int4": 0}
    for id in range(12_000):
        now += rng.exponential(1 / 6000)
        is_strict = id % 10 == 0
        if is_strict:
            strict.add(id)
        assert dispatcher.push(Waiting(id, now + 0.1, floor=1.0 if is_strict else -math.inf), now)
        if id % 32 == 31:
            batch = dispatcher.take(now)
            dispatcher.done(batch.variant.name, len(batch.requests), batch.expected_s)
            seen[batch.variant.name] += len(batch.requests)
            for one in batch.requests:
                assert one.id not in strict or batch.variant.name == "fp32"
    assert seen["fp32"] and seen["int8"] + seen["int4"] > seen["fp32"]
    assert not dispatcher.push(Waiting(99_999, now + 1, floor=1.01), now)


def test_lanes_do_not_starve_each_other():
    dispatcher = Dispatcher(variants(), BUILT_IN)
    answered = {True: 0, False: 0}
    now = 0.0
    for id in range(4000):
        now += 1 / 5000
        dispatcher.push(Waiting(id, now + 0.5, floor=1.0 if id % 2 else 0.0), now)
        if id % 8 == 7 and (batch := dispatcher.take(now)):
            for one in batch.requests:
                answered[one.id % 2 == 1] += 1
    assert min(answered.values()) >= 0.2 * sum(answered.values())


def test_who_waits_can_be_forgotten_and_who_is_late_without_workers_is_told():
    dispatcher = Dispatcher(variants(), BUILT_IN)
    for id in range(3):
        dispatcher.push(Waiting(id, 0.05, floor=QUALITY[id]), 0.0)
    assert dispatcher.cancel(1) and not dispatcher.cancel(1)
    dispatcher.expire(0.1)
    assert sorted(gone.waiting.id for gone in dispatcher.dropped) == [0, 2]
    assert len(dispatcher) == 0 and dispatcher.take(0.2) is None


def test_a_model_without_variants_is_refused():
    with pytest.raises(ValueError, match="without variants"):
        Dispatcher([], BUILT_IN)
