"""How much a population needs: what a pod holds, and how many carry a lost region."""

import math

import pytest

from gyral.errors import UsageError
from gyral.plan.figure import Figure
from gyral.plan.service import Work
from gyral.plan.serving import Pod, capacity, highest_rate, need, replica_capacity, row_capacity
from gyral.plan.simulate import Replica, TokenCost
from gyral.plan.spread import exponential, fixed, lognormal
from gyral.plan.traffic import Population, Region

NONE = Figure(0.0, "s", "measured")


def _work(seconds, noise=None, low=math.nan, high=math.nan, **more):
    return Work(NONE, Figure(seconds, "s", "measured", "a run", low, high), noise or exponential(1.0), **more)


def test_the_highest_rate_is_found():
    assert highest_rate(lambda rate: rate / 123.4, 1_000.0) == pytest.approx(123.4, rel=1e-2)
    assert highest_rate(lambda rate: rate / 123.4, 100.0) == 100.0
    assert highest_rate(lambda rate: 2.0, 100.0) == 0.0


def test_one_worker_holds_what_the_formula_says():
    # sojourns of M/M/1 are exponential: p99 = ln 100 / (1/s − rate)
    found = capacity(Pod(_work(0.01)), 0.2)
    assert found.value == pytest.approx(100 - math.log(100) / 0.2, rel=0.04)
    assert found.by == "measured"


def test_a_pod_is_as_sure_as_its_work():
    found = capacity(Pod(_work(0.01, low=0.009, high=0.012), 4), 0.1)
    low, high = found.interval
    assert low < found.value < high and high / low > 1.2


def test_batches_hold_more():
    work = Work(Figure(0.004, "s", "measured"), Figure(0.001, "s", "measured"), fixed(1.0))
    alone, together = (capacity(Pod(work._replace(max_batch=each)), 0.05) for each in (1, 32))
    assert alone.value < 200 < 600 < together.value < 1_000


def test_no_plan_counts_on_workers_that_never_rest():
    assert capacity(Pod(_work(0.01, fixed(1.0)), 2), 1_000.0).value == pytest.approx(196)


def test_a_limit_that_one_request_breaks_is_refused():
    with pytest.raises(UsageError, match="no pod holds a p99 of 10 ms"):
        capacity(Pod(_work(0.02, fixed(1.0))), 0.01)


def test_stages_hold_what_the_narrowest_does():
    wide = row_capacity([(_work(0.001), 64), (_work(0.01), 4)], 0.1)
    alone = row_capacity([(_work(0.01), 4)], 0.1)
    both = row_capacity([(_work(0.01), 4), (_work(0.01), 4)], 0.1)
    assert wide.value == pytest.approx(alone.value, rel=0.05) and both.value < 0.95 * alone.value
    with pytest.raises(UsageError):
        row_capacity([(_work(1.0), 4)], 0.1)


def test_a_replica_of_a_language_model_holds_both_limits():
    replica = Replica(TokenCost(0.01, 2e-5, 1e-7), 100_000, 512, 128)
    prompts, answers = lognormal(300, 0.8), lognormal(100, 0.8)
    loose = replica_capacity(replica, prompts, answers, first_s=2.0, between_s=0.1, most=200.0)
    first = replica_capacity(replica, prompts, answers, first_s=0.1, between_s=0.1, most=200.0)
    between = replica_capacity(replica, prompts, answers, first_s=2.0, between_s=0.014, most=200.0)
    assert 0 < first < loose and 0 < between < loose


def test_regions_carry_the_one_that_is_lost():
    regions = [Region("west", 0.5, -8.0), Region("east", 0.5, 8.0)]
    people = Population(Figure(2e8, "", "measured"), Figure(20.0, "", "measured"), regions)
    pod = Pod(_work(0.01), 8, cores=2.0)
    alone, safe = (need(people, pod, 0.2, survives=each) for each in (False, True))
    # the other's requests come at another hour, so less than twice as many are needed
    assert alone.spare == 0 and sum(alone.pods.values()) < sum(safe.pods.values()) < 2 * sum(alone.pods.values())
    assert safe.spare == sum(safe.pods.values()) - sum(alone.pods.values())
    both = people.rates(regions[0]) + people.rates(regions[1])
    assert safe.peak_per_s["west"] == pytest.approx(both.max())
    assert safe.pods["west"] == math.ceil(both.max() / safe.pod_per_s.value)
    assert safe.cores.value == 16 * safe.total.value and safe.total.by == "measured"
    free = need(people, pod, 0.2, survives=True, head=0.5)
    assert free.total.value == pytest.approx(2 * safe.total.value, abs=2)
    with pytest.raises(UsageError):
        need(people, pod, 0.2, head=1.0)


def test_trials_are_of_the_same_people():
    assert capacity(Pod(_work(0.01), 4), 0.1, seed=3) == capacity(Pod(_work(0.01), 4), 0.1, seed=3)
