"""Spreads: their means, their quantiles, and that draws are drawn from them."""

import math

import numpy as np
import pytest

from gyral.errors import UsageError
from gyral.plan import quantile_kernel as draws
from gyral.plan.spread import exponential, fixed, lognormal, measured, of_percentiles
from gyral.plan.times import BINS, edges, of_samples


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 0.9999, 0.999999])
def test_quantiles_are_those_of_the_inverse(share):
    assert exponential(2.0).at(share) == pytest.approx(-2 * math.log(1 - share), rel=2e-3)


def test_moments_are_kept():
    for spread, cv in ((exponential(3.0), 1.0), (lognormal(3.0, 0.5), 0.5), (lognormal(3.0, 2.0), 2.0), (fixed(3.0), 0.0)):
        assert spread.mean == 3.0
        assert spread.cv == pytest.approx(cv, rel=0.02)
        assert spread.scaled(2.0).mean == 6.0


def test_draws_are_those_of_the_spread():
    spread, key = lognormal(5.0, 1.2), np.uint64(1)
    seen = np.array([draws.quantile(spread.table, draws.uniform(key, np.uint64(number))) for number in range(200_000)])
    assert seen.mean() == pytest.approx(5.0, rel=0.02)
    for share in (0.1, 0.5, 0.99):
        assert np.quantile(seen, share) == pytest.approx(spread.at(share), rel=0.03)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.998, 0.9985, 0.99999, 0.9999999])
def test_the_kernel_reads_the_tail_as_the_table_tells_it(share):
    spread = lognormal(5.0, 1.2)
    assert draws.quantile(spread.table, share) == pytest.approx(spread.at(share), rel=1e-9)


def test_draws_of_a_key_are_uniform_and_those_of_another_are_others():
    one, two = (np.array([draws.uniform(np.uint64(key), np.uint64(n)) for n in range(50_000)]) for key in (1, 2))
    counts = np.bincount((one * 100).astype(int), minlength=100)
    assert ((counts - 500) ** 2 / 500).sum() < 160  # chi-square of 99, beyond 1 in 10,000
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.02


def test_what_was_measured_comes_again():
    samples = np.random.default_rng(1).gamma(2.0, 3.0, 5_000)
    spread = measured(samples)
    assert spread.mean == pytest.approx(samples.mean())
    for share in (0.05, 0.5, 0.95, 0.99):
        assert spread.at(share) == pytest.approx(np.quantile(samples, share), rel=0.01)


def test_percentiles_are_met_and_a_lognormal_is_between_them():
    true = lognormal(1.0, 0.8)
    spread = of_percentiles({share: true.at(share) for share in (0.5, 0.95, 0.99)})
    for share in (0.5, 0.7, 0.95, 0.99, 0.999):
        assert spread.at(share) == pytest.approx(true.at(share), rel=0.02)
    assert spread.mean == pytest.approx(1.0, rel=0.01)


def test_what_is_no_spread_is_refused():
    for call in (
        lambda: measured([]),
        lambda: measured([1.0, -1.0]),
        lambda: exponential(-1.0),
        lambda: fixed(math.nan),
        lambda: of_percentiles({0.5: 2.0}),
        lambda: of_percentiles({0.5: 2.0, 0.99: 1.0}),
    ):
        with pytest.raises(UsageError):
            call()


def test_histograms_know_quantiles_to_a_hundredth():
    samples = np.exp(np.random.default_rng(1).normal(-5, 2, 100_000))
    counted = of_samples(samples)
    assert len(counted) == 100_000 and counted.mean_s == samples.mean()
    for share in (0.01, 0.5, 0.99, 0.999):
        assert counted.quantile(share) == pytest.approx(np.quantile(samples, share), rel=0.01)
    both = counted + of_samples(samples[:50_000] * 0 + 1.0)
    assert both.quantile(0.99) == pytest.approx(1.0, rel=0.01) or both.quantile(0.99) > 1
    assert both.mean_s == pytest.approx((samples.sum() + 50_000) / 150_000)


def test_kernel_and_arrays_count_in_the_same_bins():
    at = edges()
    assert len(at) == BINS + 1 and (np.diff(at) > 0).all()
    for seconds in (0.0, 1e-9, 1e-6, 3.3e-4, 0.01, 1.0, 77.7, 2e4, 1e9):
        place = draws.bin_of(seconds)
        assert of_samples(np.array([seconds])).counts[place] == 1
        assert at[place] <= seconds * (1 + 1e-12) and (seconds < at[place + 1] or place == BINS - 1)
