import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.serve.scheduling.cost import Cost, Curve, TokenCost

TRUTH = Curve(0.004, 0.0005)


def learned(prior, truth, sizes, *, noise=0.0, max_batch=32, seed=0):
    rng = np.random.default_rng(seed)
    cost = Cost(prior, max_batch)
    for size in sizes:
        cost.observe(int(size), truth.seconds(size) * math.exp(noise * rng.standard_normal()))
    return cost


def test_a_wrong_prior_is_corrected_to_what_numpy_fits():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 33, 400)
    seconds = np.array([TRUTH.seconds(size) for size in sizes]) * np.exp(0.1 * rng.standard_normal(400))
    cost = Cost(Curve(0.012, 0.0001), 32)
    for size, took in zip(sizes.tolist(), seconds.tolist(), strict=True):
        cost.observe(size, took)
    slope, fixed = np.polyfit(sizes[-150:], seconds[-150:], 1)
    for size in (1, 8, 32):
        assert cost.seconds(size) == pytest.approx(fixed + slope * size, rel=0.08)


def test_a_machine_that_gets_three_times_slower_is_known_after_a_hundred_batches():
    sizes = np.random.default_rng(0).integers(1, 33, 200).tolist()
    cost = learned(TRUTH, TRUTH, sizes, noise=0.1)
    slow = Curve(0.012, 0.0015)
    for size in sizes[:100]:
        cost.observe(size, slow.seconds(size))
    assert cost.seconds(16) == pytest.approx(slow.seconds(16), rel=0.15)


def test_one_pause_of_a_second_changes_little():
    cost = learned(TRUTH, TRUTH, [1, 8, 32] * 50, noise=0.05)
    before = cost.seconds(16)
    cost.observe(16, 1.0)
    assert cost.seconds(16) == pytest.approx(before, rel=0.25)


def test_batches_of_one_size_keep_the_measured_shape():
    cost = learned(Curve(0.002, 0.00025), TRUTH, [32] * 300)
    assert cost.seconds(32) == pytest.approx(TRUTH.seconds(32), rel=0.02)
    assert cost.seconds(1) == pytest.approx(TRUTH.seconds(1), rel=0.1)


def test_nine_of_ten_batches_are_done_within_the_safe_time():
    rng = np.random.default_rng(3)
    cost = Cost(Curve(0.002, 0.001), 32)
    kept = []
    for size in rng.integers(1, 33, 4000).tolist():
        took = TRUTH.seconds(size) * math.exp(0.25 * rng.standard_normal())
        kept.append(took <= cost.safe(size))
        cost.observe(size, took)
    assert 0.86 <= np.mean(kept[1000:]) <= 0.94


@given(st.floats(0, 0.05), st.floats(0, 0.01), st.floats(0.0001, 1))
def test_the_sizes_that_fit_are_those_that_are_found_by_trying(fixed, each, slack):
    cost = Cost(Curve(fixed + 1e-5, each), 48)
    fits = max((size for size in range(1, 49) if cost.safe(size) <= slack), default=0)
    assert abs(cost.fits(slack) - fits) <= 1 and (cost.fits(slack) == 0) == (fits == 0)
    assert cost.fits(slack) == 0 or cost.safe(cost.fits(slack)) <= slack * (1 + 1e-6)


@given(st.lists(st.tuples(st.integers(-3, 64), st.floats(allow_nan=True, allow_infinity=True)), max_size=60))
def test_no_measurement_makes_it_negative_falling_or_undefined(measured):
    cost = Cost(TRUTH, 32)
    for size, seconds in measured:
        cost.observe(size, seconds)
    assert 0 < cost.seconds(1) <= cost.seconds(32) < math.inf
    assert 1 <= cost.margin <= 3


def test_a_curve_that_is_none_is_refused():
    for prior in (Curve(0, 0), Curve(-1, 1), Curve(math.nan, 1), Curve(math.inf, 0)):
        with pytest.raises(ValueError, match="no cost"):
            Cost(prior)


def test_an_answer_costs_what_is_read_and_what_is_made():
    cost = TokenCost(Curve(0.005, 0.0001), Curve(0.01, 0.001))
    assert cost.seconds(100, 50, batch=4) == pytest.approx(0.005 + 0.01 + 50 * 0.014)
    assert cost.seconds(100, 50, cached=100, batch=4) == pytest.approx(50 * 0.014)
    assert cost.first_s(100, cached=40) == pytest.approx(0.005 + 0.006 + 0.011)
