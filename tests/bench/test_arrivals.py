"""Arrivals against what the theory of queues and of Poisson processes says of them."""

import numpy as np
import pytest

from gyral.bench import arrivals
from gyral.errors import UsageError


def lindley(due_s, each_s):
    """Waits in a queue of one server that takes `each_s` for each, one arrival after the other."""
    waits, free = [], 0.0
    for at in due_s:
        waits.append(max(free - at, 0.0))
        free = max(free, at) + each_s
    return np.array(waits)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_a_queue_they_arrive_at_waits_as_pollaczek_and_khinchine_say(busy):
    waits = lindley(arrivals.due("poisson", busy, 200_000, seed=1), 1.0)
    assert waits.mean() == pytest.approx(busy / (2 * (1 - busy)), rel=0.06)


def test_gaps_of_poisson_arrivals_are_exponential():
    gaps = np.sort(np.diff(arrivals.due("poisson", 50.0, 1_000.0, seed=2)))
    expected = 1 - np.exp(-50.0 * gaps)
    assert np.abs(expected - np.arange(len(gaps)) / len(gaps)).max() < 1.63 / np.sqrt(len(gaps))  # Kolmogorov, 1 %


def test_constant_arrivals_are_even():
    np.testing.assert_allclose(arrivals.due("constant", 4.0, 2.0, seed=0), np.arange(8) / 4)


def test_bursts_keep_the_mean_and_have_a_tenth_of_the_time():
    due_s = arrivals.due("bursts", 1_000.0, 100.0, seed=3, burst_factor=5.0, burst_every_s=2.0)
    assert len(due_s) == pytest.approx(100_000, rel=0.02)
    assert (due_s % 2.0 < 0.2).mean() == pytest.approx(0.5, abs=0.02)


def test_a_day_has_its_trough_at_night_and_its_peak_in_the_evening():
    due_s = arrivals.due("day", 10_000.0, 24.0, seed=4)
    assert len(due_s) == pytest.approx(240_000, rel=0.02)
    hours = np.histogram(due_s, np.arange(25))[0]
    assert hours.argmin() in (3, 4, 5) and hours.argmax() in range(17, 22)
    assert hours.max() / hours.min() == pytest.approx(3.9, rel=0.2)


def test_a_seed_is_the_same_traffic_and_another_is_another():
    one, same, other = (arrivals.due("poisson", 100.0, 5.0, seed) for seed in (7, 7, 8))
    assert (one == same).all() and (len(one) != len(other) or (one != other).any())
    assert (np.diff(one) >= 0).all() and one[0] >= 0 and one[-1] < 5.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="requests"):
        arrivals.due("poisson", 1e6, 86_400.0, 0)
    with pytest.raises(UsageError, match="no request is due"):
        arrivals.due("poisson", 1e-3, 0.1, 0)
