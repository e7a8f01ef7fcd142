"""Intervals are Young's and Daly's, and wall times those of a simulated run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from gyral.errors import ConfigError
from gyral.plan.failures import Failures, daly, moments, money, wall_time, young
from gyral.plan.figure import Figure


def simulated(work_s, every_s, save_s, restart_s, mtbf_s, runs, seed=0):
    """Seconds of whole runs, failure by failure."""
    random, found = np.random.default_rng(seed), []
    for _ in range(runs):
        now = 0.0
        for _ in range(round(work_s / every_s)):
            needed = every_s + save_s
            while (failure := random.exponential(mtbf_s)) < needed:
                now += failure
                needed = every_s + save_s + restart_s
            now += needed
        found.append(now)
    return np.array(found)


@pytest.mark.parametrize(("every", "save", "restart", "mtbf"), [(600, 30, 120, 3600), (100, 50, 500, 400), (10, 1, 0, 1e5)])
def test_mean_and_spread_are_those_of_simulated_runs(every, save, restart, mtbf):
    runs = simulated(every * 20, every, save, restart, mtbf, 4000)
    mean, spread = moments(every * 20, every, save, restart, mtbf)
    assert mean == pytest.approx(runs.mean(), rel=4 * runs.std() / runs.mean() / 63)
    assert spread == pytest.approx(runs.std(), rel=0.08, abs=1e-6 * mean)


def test_an_interval_holds_four_of_five_simulated_runs():
    failures = Failures(nodes=100, node_mtbf_s=Figure(360_000.0, "s", "measured"), save_s=30, restart_s=120)
    every = daly(30, 3600.0)
    work = 50 * every
    runs = simulated(work, every, 30, 120, 3600.0, 3000)
    low, high = wall_time(Figure(work, "s", "measured"), failures).interval
    assert np.mean((runs >= low) & (runs <= high)) == pytest.approx(0.8, abs=0.03)


@given(save=some.floats(1, 600), mtbf=some.floats(1800, 1e6))
@settings(max_examples=80, deadline=None)
def test_saving_as_daly_says_is_best_and_near_young(save, mtbf):
    every = daly(save, mtbf)

    def lost(interval):
        return moments(1e6, interval, save, 60, mtbf)[0]

    best = lost(every)
    assert all(best <= lost(every * by) * 1.0005 for by in (0.5, 0.8, 1.25, 2.0))
    if save < mtbf / 100:
        assert every + save == pytest.approx(young(save, mtbf), rel=0.06)


def test_numbers_of_dalys_paper():
    """Young's √(2 · 5 min · 24 h) is 120 minutes; a run without failures takes its work and its saves."""
    assert young(300, 86_400) == pytest.approx(7200)
    assert daly(300, 86_400) == pytest.approx(7200 * (1 + (300 / 172_800) ** 0.5 / 3 + 300 / 172_800 / 9) - 300)
    assert daly(100, 40) == 40
    mean, spread = moments(1000, 100, 10, 50, 1e12)
    assert (mean, spread) == pytest.approx((1100, 0), abs=0.1)


def test_what_is_not_known_widens_the_interval_and_costs():
    sure = Figure(4e6, "s", "measured", "", 4e6, 4e6)
    wide = Figure(4e6, "s", "assumed", "", 2e6, 8e6)
    work = Figure(5e5, "s", "calibrated", "", 4.7e5, 5.3e5)
    known, unknown = (wall_time(work, Failures(nodes=512, node_mtbf_s=mtbf, save_s=60, restart_s=600)) for mtbf in (sure, wide))
    assert known.value == unknown.value > work.value
    assert unknown.low <= known.low and unknown.high > known.high
    assert (known.by, unknown.by) == ("calibrated", "assumed")
    usd = money(unknown, 512, 32.0)
    assert usd.value == pytest.approx(unknown.value / 3600 * 512 * 32) and usd.by == "assumed"
    assert usd.low < usd.value < usd.high
    more = wall_time(work, Failures(nodes=1024, node_mtbf_s=sure, save_s=60, restart_s=600))
    assert more.value > known.value


def test_a_run_that_never_ends_and_one_that_cannot_be():
    assert moments(1e6, 1e6, 60, 60, 100) == (float("inf"), float("inf"))
    with pytest.raises(ConfigError, match="time of saving"):
        Failures(nodes=0, node_mtbf_s=Figure(1.0), save_s=1, restart_s=1)
