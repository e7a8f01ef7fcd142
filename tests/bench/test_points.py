"""Figures against numpy's own, and against what was put in by hand."""

import numpy as np
import pytest

from gyral.bench import points
from gyral.bench.record import CUT, OK, REFUSED, TIMEOUT, Record
from gyral.bench.traffic import Traffic


def made(rows, due_s=None, deadline_s=None):
    """Rows of (outcome, milliseconds after it was due, status)."""
    count = len(rows)
    due_s = np.arange(count, dtype=float) if due_s is None else due_s
    deadline_s = np.full(count, np.inf) if deadline_s is None else deadline_s
    zeros = np.zeros(count, np.uint32)
    record = Record(count)
    for at, (outcome, taken_ms, status) in enumerate(rows):
        record.reached_s[at], record.sent_s[at] = due_s[at], due_s[at] + 5e-4  # what was due waited half a millisecond
        record.done_s[at] = due_s[at] + taken_ms / 1e3
        record.outcome[at], record.status[at] = outcome, status
    return Traffic(due_s, zeros, zeros, deadline_s, [b""], [b""]), record


def test_percentiles_are_numpys_and_an_interval_holds_the_truth_19_times_of_20():
    rng = np.random.default_rng(0)
    samples = rng.lognormal(1, 1, 20_011)
    told = points.spread(samples)
    for share, value in ((50, told.p50_ms), (95, told.p95_ms), (99, told.p99_ms), (99.9, told.p999_ms)):
        assert value == pytest.approx(np.percentile(samples, share, method="inverted_cdf"), abs=1e-4)
    truth = np.exp(1 + 2.3263)
    held = [
        low <= truth <= high for low, high in (points.spread(rng.lognormal(1, 1, 2_000)).p99_interval_ms for _ in range(400))
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.035)


def test_a_percentile_that_too_few_samples_bound_is_not_told():
    assert [points.needed(share) for share in (0.5, 0.95, 0.99, 0.999)] == [6, 72, 368, 3_688]
    assert 0.99**368 <= 0.025 < 0.99**367
    told = points.spread(np.arange(367.0))
    assert told.p95_ms == 348 and told.p99_ms is None and told.p999_ms is None and told.num_samples == 367
    assert points.spread(np.arange(368.0)).p99_ms == 364
    assert points.spread(np.array([])).p50_ms is None


def test_what_failed_is_counted_by_kind_and_a_timeout_counts_as_what_it_waited():
    rows = [(OK, 10, 200)] * 6 + [(REFUSED, 1, 503)] * 2 + [(REFUSED, 1, 404), (CUT, 5, 200), (TIMEOUT, 2_000, 0)]
    traffic, record = made(rows, deadline_s=np.array([0.005, 0.0098] + [1.0] * 9))
    point = points.operating_point(traffic, record, 10.0, late_ms=1, max_late=0.01, cpu_s=0.3, usd_per_core_hour=0.036)
    assert point.errors == {"status 503": 2, "status 404": 1, "cut": 1, "timeout": 1}
    assert point.num_ok == 6 and point.goodput == pytest.approx(4 / 11, abs=1e-6) and point.latency.num_samples == 7
    assert point.latency.max_ms == 2_000 and point.latency.p50_ms == 10 and point.since_sent.p50_ms == 9.5
    assert point.waited_share == 1
    assert point.seconds == 12.0 and point.achieved_per_s == 0.5  # the last outcome came after 12 s
    assert point.cpu_s_per_request == pytest.approx(0.05) and point.usd_per_1000 == pytest.approx(0.0005)
    assert point.is_valid and not points.holds(point)


def test_a_late_generator_makes_a_run_invalid():
    traffic, record = made([(OK, 30, 200)] * 100)
    for at in (3, 50):
        record.reached_s[at] += 0.02
    point = points.operating_point(traffic, record, 100.0, late_ms=10, max_late=0.01)
    assert point.late_share == 0.02 and not point.is_valid and "generator was late" in point.why
    assert points.operating_point(traffic, record, 100.0, late_ms=10, max_late=0.02).is_valid
    assert points.operating_point(traffic, record, 100.0, late_ms=25, max_late=0.01).is_valid


def test_the_curve_and_the_histogram_are_of_all_samples():
    samples = np.random.default_rng(1).lognormal(1, 1, 10_007)
    curve = points.curve(samples)
    assert [x for x, _ in curve] == sorted(x for x, _ in curve)
    assert curve[-1] == (pytest.approx(4.0003, abs=1e-4), pytest.approx(samples.max(), abs=1e-4))
    for x, y in curve[:-1]:
        share = 100 * (1 - 10**-x)
        assert y == pytest.approx(np.percentile(samples, share, method="inverted_cdf"), abs=2e-4)
    bars = points.histogram(samples)
    assert sum(number for _, _, number in bars) == 10_007
    for low, high, number in bars:
        assert number == ((samples >= low) & (samples < high)).sum()


def test_each_second_has_what_was_due_in_it():
    due_s = np.array([0.1, 0.2, 1.5, 3.9])
    traffic, record = made([(OK, 10, 200), (OK, 30, 200), (TIMEOUT, 5_000, 0), (REFUSED, 1, 500)], due_s)
    rows = points.second_by_second(traffic, record, 4.0)
    assert [(row["due"], row["ok"]) for row in rows] == [(2, 2), (1, 0), (0, 0), (1, 0)]
    assert rows[0]["p50_ms"] == pytest.approx(20) and rows[0]["max_ms"] == pytest.approx(30)
    assert rows[1]["max_ms"] == 5_000 and rows[2]["p50_ms"] is None and rows[3]["max_ms"] is None
