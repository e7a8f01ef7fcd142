"""What silence costs a server: found again in times that were made by it, and simulated as its exact mean."""

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.plan import simulate as sim
from gyral.plan.cold import FEWEST, Cold, cold_of, idle_before
from gyral.plan.simulate import Traffic
from gyral.plan.spread import fixed


def test_silence_before_a_request_is_since_the_last_answer():
    due, done = np.array([1.0, 2.0, 2.1, 5.0]), np.array([1.5, 2.4, 2.2, 5.1])
    assert idle_before(due, done)[1:] == pytest.approx([0.5, -0.3, 2.6])
    assert np.isnan(idle_before(due, done)[0])


def test_after_a_long_silence_all_of_it_is_paid_and_at_work_nothing():
    cold = Cold(1.5, 0.005)
    assert cold.factor(np.array([-1.0, 0.0, 0.005, 10.0])) == pytest.approx([1.0, 1.0, 1 + 1.5 * (1 - np.exp(-1)), 2.5])


@pytest.mark.parametrize("cold", [Cold(1.5, 0.005), Cold(0.4, 0.02), Cold(3.0, 0.001)])
def test_what_made_the_times_is_found_again(cold):
    rng = np.random.default_rng(1)
    idle = np.concatenate([rng.exponential(1 / rate, 1_500) for rate in (75, 150, 300)])
    seconds = 5e-4 * cold.factor(idle) * rng.lognormal(0, 0.15, len(idle))
    idle[::10], seconds[::10] = -1e-3, 1.0  # who found somebody waited, and says nothing
    found = cold_of(idle, seconds)
    assert found.factor(np.array([0.001, 0.005, 0.02])) == pytest.approx(cold.factor(np.array([0.001, 0.005, 0.02])), rel=0.08)


def test_a_server_that_nothing_slows_is_not_told_to_be_slow():
    rng = np.random.default_rng(2)
    idle = rng.exponential(1 / 150, 3_000)
    assert cold_of(idle, 5e-4 * rng.lognormal(0, 0.15, len(idle))).factor(np.array([0.01])) == pytest.approx(1.0, abs=0.08)
    with pytest.raises(InputError, match="found nobody"):
        cold_of(np.append(idle[: FEWEST - 1], -np.ones(5_000)), np.ones(FEWEST + 4_999))


@pytest.mark.parametrize("rate", [20.0, 150.0, 1_000.0])
def test_simulated_silence_costs_its_exact_mean(rate):
    """Silences are exponential, so 1 − exp(−idle / τ) is 1 / (1 + rate · τ) on average."""
    cold, seconds = Cold(2.0, 0.005), 1e-5
    found = sim.batching(Traffic.steady(rate, 100_000 / rate), seconds, 0.0, hop=fixed(seconds), cold=cold, seed=1)
    expected = 2 * seconds * (1 + cold.slower / (1 + rate * cold.cools_s))
    assert found.sojourns.mean_s == pytest.approx(expected, rel=0.03)
    plain = sim.batching(Traffic.steady(rate, 100_000 / rate), seconds, 0.0, hop=fixed(seconds), seed=1)
    assert plain.sojourns.mean_s == pytest.approx(2 * seconds, rel=0.02)


def test_a_busy_server_is_faster_than_one_that_is_seldom_asked():
    cold = Cold(2.0, 0.005)
    seldom, often = (
        sim.batching(Traffic.steady(rate, 50_000 / rate), 3e-4, 5e-5, cold=cold, seed=2).sojourns for rate in (20.0, 1_000.0)
    )
    assert often.mean_s < 0.9 * seldom.mean_s
