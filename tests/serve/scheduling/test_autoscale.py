import math

import pytest

from gyral.serve.scheduling.autoscale import Sample, capacity_of, scale
from gyral.serve.scheduling.cost import Cost, Curve


def run(rate_at, seconds=600, *, start_s=5.0, capacity=1000.0, most=16, backlog=lambda at: 0.0):
    """Play a day second by second: copies that are asked for answer `start_s` later."""
    series, counts, ready, coming = [], [], 1, []
    for at in range(seconds):
        ready += sum(count for due, count in coming if due <= at)
        coming = [(due, count) for due, count in coming if due > at]
        series.append(Sample(at, rate_at(at), backlog(at), ready + sum(count for _, count in coming)))
        asked = scale(series[-120:], capacity, most=most, start_s=start_s).replicas
        if asked > series[-1].replicas:
            coming.append((at + start_s, asked - series[-1].replicas))
        elif asked < series[-1].replicas:
            ready -= series[-1].replicas - asked
        counts.append(ready)
    return counts


def test_a_steady_rate_gets_what_carries_it_and_then_nothing_changes():
    counts = run(lambda at: 2000.0)
    assert set(counts[10:]) == {3}  # 2,000 at 70 % of 1,000 each


def test_a_morning_that_climbs_is_met_before_it_is_there():
    rate = lambda at: 500 + 10.0 * at  # noqa: E731
    counts = run(rate, 500)
    assert all(count * 1000 >= rate(at) for at, count in enumerate(counts) if at > 10)
    assert max(counts) <= math.ceil((rate(500) + 60) / 700)


def test_a_swing_does_not_make_copies_come_and_go():
    counts = run(lambda at: 2000 + 600 * math.sin(at / 5), 300)
    settled = counts[140:]
    assert max(settled) == min(settled)


def test_less_only_after_a_minute_without_need():
    counts = run(lambda at: 6000.0 if at < 100 else 600.0, 300)
    assert counts[99] == 9 and min(counts[100:155]) == 9
    assert counts[-1] == 1


def test_a_backlog_counts_and_limits_hold():
    base = [Sample(at, 100.0, 0.0, 1) for at in range(10)]
    assert scale(base, 1000).replicas == 1
    assert scale([*base, Sample(10, 100.0, 20_000, 1)], 1000).replicas == 5
    told = scale([*base, Sample(10, 90_000.0, 0, 1)], 1000, most=4)
    assert told.replicas == 4 and "at most 4" in told.why
    assert scale([Sample(0, 0.0, 0, 0)], 1000, least=2).replicas == 2


def test_a_copy_carries_what_its_deadline_leaves():
    cost = Cost(Curve(0.004, 0.0005), 32)
    assert capacity_of(cost, math.inf) == pytest.approx(1600)
    assert capacity_of(cost, 0.02) < capacity_of(cost, 0.05)


def test_nothing_measured_decides_nothing():
    with pytest.raises(ValueError, match="decide nothing"):
        scale([], 100)
