"""Populations: their clocks, and that a few pods tell of all."""

import numpy as np
import pytest

from gyral.errors import UsageError
from gyral.plan import simulate as sim
from gyral.plan.day import local_day
from gyral.plan.figure import Figure
from gyral.plan.simulate import Rules
from gyral.plan.spread import lognormal
from gyral.plan.traffic import Bursts, Device, Population, Region, play, quantile

REGIONS = [Region("west", 0.3, -8.0), Region("middle", 0.5, 1.0), Region("east", 0.2, 8.0)]
PEOPLE = Population(Figure(1e6, "", "sheet", "", 8e5, 1.2e6), Figure(10.0, "", "assumed", "", 5.0, 20.0), REGIONS)
SERVICE = lognormal(0.02, 1.0)


def _pod(traffic, seed):
    return sim.first_come(traffic, SERVICE, 2, seed=seed)


def test_a_day_holds_the_requests_of_all():
    total = sum(PEOPLE.rates(each).sum() * 60 for each in REGIONS)
    assert total == pytest.approx(1e7, rel=1e-9)
    assert PEOPLE.per_day.value == 1e7 and PEOPLE.per_day.by == "assumed"
    low, high = PEOPLE.per_day.interval
    assert 1e7 * 0.45 < low < 1e7 * 0.5 and 1e7 * 2.0 < high < 1e7 * 2.1


def test_evening_comes_to_the_east_first():
    hours = {each.name: int(np.argmax(PEOPLE.rates(each))) / 60 for each in REGIONS}
    local = {each.name: (hours[each.name] + each.utc_offset_h) % 24 for each in REGIONS}
    assert max(local.values()) - min(local.values()) < 0.1
    assert 17 < local["west"] < 22 and hours["east"] < hours["middle"]


def test_measured_hours_are_followed():
    hours = tuple([1.0] * 12 + [3.0] * 12)
    at = (np.arange(1440) + 0.5) / 1440
    heights = local_day(at, 0.0, hours)
    assert heights.mean() == pytest.approx(1.0, abs=0.01)
    assert heights[6 * 60] == pytest.approx(0.5) and heights[18 * 60] == pytest.approx(1.5)
    assert local_day(at, 12.0, hours)[6 * 60] == pytest.approx(1.5)


def test_devices_answer_some_themselves_and_bursts_come_to_a_region():
    devices = [Device("phone", 0.8, 0.5), Device("desk", 0.2)]
    assert PEOPLE._replace(devices=devices).per_day.value == pytest.approx(6e6)
    burst = PEOPLE._replace(bursts=Bursts(3.0, 1, 600.0))
    ratio = burst.rates(REGIONS[0], seed=1) / PEOPLE.rates(REGIONS[0])
    assert sorted(set(ratio.round(9))) == [1.0, 3.0] and 0 < (ratio > 2).sum() <= 10
    assert (burst.rates(REGIONS[0], seed=1) == burst.rates(REGIONS[0], seed=1)).all()


def test_some_pods_tell_of_all():
    pods = {"west": 30, "middle": 50, "east": 20}
    all_of_them = play(PEOPLE, pods, _pod, share=1.0, enough=0.0, seed=3)
    some = play(PEOPLE, pods, _pod, share=0.01, enough=0.0, seed=4)
    assert all_of_them.num_pods == 100 and some.num_pods == 24
    assert all_of_them.num_requests == pytest.approx(1e7, rel=0.01)
    assert all_of_them.steps[:, 0].sum() == all_of_them.num_requests
    assert some.steps[:, 0].sum() == pytest.approx(1e7, rel=0.01)
    assert some.p99_s.value == pytest.approx(all_of_them.p99_s.value, rel=0.02)
    assert all_of_them.p99_s.low == all_of_them.p99_s.value == all_of_them.p99_s.high  # nothing is left to chance
    assert some.p99_s.low < some.p99_s.value < some.p99_s.high < 1.02 * some.p99_s.low
    assert some.p99_s.by == "assumed"


def test_it_stops_when_enough_is_known():
    pods = {"west": 300, "middle": 500, "east": 200}
    soon = play(PEOPLE, pods, _pod, share=0.1, enough=0.5, seed=1)
    whole = play(PEOPLE, pods, _pod, share=0.1, enough=0.0, seed=1)
    assert soon.num_pods == 24 and whole.num_pods == 30 + 50 + 20


def test_intervals_cover_what_all_pods_would_tell():
    """Pods with luck of their own: four of five intervals of a sample hold the quantile of all."""
    rng = np.random.default_rng(1)
    pods = [sim.of_samples(rng.exponential(scale, 2_000)).counts for scale in rng.lognormal(0.0, 0.1, 200)]
    true = quantile({"all": pods}, {"all": 200}, 0.99).value
    held = 0
    for _ in range(100):
        some = [pods[each] for each in rng.choice(200, 30, replace=False)]
        low, high = quantile({"all": some}, {"all": 200}, 0.99).interval
        held += low <= true <= high
    assert 68 <= held <= 92


def test_what_if_meets_the_same_people():
    pods = {"west": 30, "middle": 50, "east": 20}

    def cached(traffic, seed):
        return sim.first_come(traffic, SERVICE, 2, rules=Rules(hit_share=0.3, hit_s=1e-3), seed=seed)

    plain, better = (play(PEOPLE, pods, pod, enough=0.0, seed=5) for pod in (_pod, cached))
    assert plain.num_requests == better.num_requests and (plain.steps[:, 0] == better.steps[:, 0]).all()
    assert better.p99_s.value < plain.p99_s.value
    again = play(PEOPLE, pods, _pod, enough=0.0, seed=5, threads=1)
    assert again.p99_s == plain.p99_s  # whatever the number of threads


def test_what_is_no_population_is_refused():
    with pytest.raises(UsageError, match="shares of regions"):
        PEOPLE._replace(regions=REGIONS[:2]).rates(REGIONS[0])
    with pytest.raises(UsageError, match="do not fill a day"):
        PEOPLE.rates(REGIONS[0], 7.0)
    with pytest.raises(UsageError, match="`east` has no pods"):
        play(PEOPLE, {"west": 1, "middle": 1}, _pod)
