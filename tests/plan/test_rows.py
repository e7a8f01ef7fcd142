"""Sizes of tables against whole sums and drawn ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from gyral.errors import ConfigError
from gyral.plan.axes import ADAM
from gyral.plan.counters import Table
from gyral.plan.rows import distinct, hot_rows, ranks_of, servers, share_of

MILLION = 1_000_000


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.0, 1.3])
def test_shares_are_those_of_whole_sums(exponent):
    weight = np.arange(1, MILLION + 1, dtype=float) ** -exponent
    whole = np.cumsum(weight) / weight.sum()
    ranks = ranks_of(MILLION, exponent)
    assert ranks.num.sum() == pytest.approx(MILLION)
    for hot in (1, 10, 1000, 5000, 123_456, MILLION):
        assert share_of(ranks, hot) == pytest.approx(whole[hot - 1], abs=1e-6)
    for share in (0.3, 0.5, 0.9):
        assert hot_rows(ranks, share) == pytest.approx(np.searchsorted(whole, share) + 1, rel=1e-3, abs=1)
    met = (-np.expm1(1e5 * np.log1p(-weight / weight.sum()))).sum()
    assert distinct(ranks, 1e5) == pytest.approx(met, rel=1e-4)


def test_distinct_rows_are_those_of_drawn_ids():
    weight = np.arange(1, 50_001, dtype=float) ** -1.0
    drawn = np.random.default_rng(0).choice(50_000, size=(20, 8192), p=weight / weight.sum())
    counted = np.mean([len(np.unique(batch)) for batch in drawn])
    assert distinct(ranks_of(50_000, 1.0), 8192) == pytest.approx(counted, rel=0.01)


def sized(**changes):
    asked = {
        "table": Table(100 * MILLION, 64, 20), "exponent": 1.0, "examples_per_s": 200_000.0, "batch": 8192,
        "memory_bytes": 16e9, "bytes_per_s": 1e9, "delay_s": 0.5,
    }  # fmt: skip
    return servers(**{**asked, **changes})


def test_servers_of_a_table():
    found = sized()
    assert found.held.value == 100e6 * (64 * 4 + 4) and found.held.by == "counted"
    assert found.shards == 2  # 26 GB in servers of 16
    assert found.stale.value == pytest.approx(200_000 / 8192 * 0.5)
    assert found.traffic.value == pytest.approx(200_000 / 8192 * found.distinct.value * (2 * 64 * 4 + 16))
    assert found.traffic.value / 2 < found.busiest.value < 0.52 * found.traffic.value
    assert sized(bytes_per_s=found.traffic.value / 5.5).shards == 6
    assert sized(kept=ADAM).shards == 7  # 102 GB
    assert found.hot.value < 0.001 * 100e6  # half of all reads


@given(rows=some.integers(1, 10**9), exponent=some.floats(0, 2), batch=some.integers(1, 10**6))
@settings(max_examples=60, deadline=None)
def test_what_always_holds(rows, exponent, batch):
    ranks = ranks_of(rows, exponent)
    met = distinct(ranks, batch)
    assert 0 < met <= min(rows, batch) * (1 + 1e-6)
    assert distinct(ranks, 2 * batch) <= 2 * met * (1 + 1e-9)
    shares = [share_of(ranks, rows * part) for part in (0.1, 0.5, 1.0)]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert share_of(ranks, hot_rows(ranks, 0.5)) >= 0.5 - 1e-6


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="above zero"):
        sized(batch=0)
    with pytest.raises(ConfigError, match="has rows"):
        ranks_of(0, 1.0)
