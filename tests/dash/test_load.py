"""The page of a load: which point is drawn, with the numbers of its lines, and what is damaged is left out."""

import re

import pytest

from gyral.dash import load


def lines():
    rows = []
    for rate, holds, valid in [(400, False, True), (100, True, True), (200, True, True), (300, True, False)]:
        point = {"type": "operating_point", "offered_per_s": rate, "num_requests": 10 * rate, "holds": holds, "is_valid": valid}
        rows.append({**point, "why": "" if valid else "late", "good_per_s": rate * 0.9, "latency": {"p99_ms": rate / 10}})
        curve = [[0.0, 1.0], [1.0, 2.0], [2.0, rate / 10]]
        seconds = [{"t": 0.0, "p50_ms": 1.0, "max_ms": 3.0}, {"t": 1.0, "p50_ms": None, "max_ms": None}]
        rows.append({"type": "load", "curve": curve, "histogram": [[1.0, 2.0, 7], [2.0, 5.0, 3]], "seconds": seconds})
    return rows


def marks(chart, series):
    found = re.findall(rf'data-series="{series}" data-x="([^"]+)" data-y="([^"]+)"', str(chart))
    return [(x, float(y)) for x, y in found]


def test_the_highest_rate_that_was_held_and_is_valid_is_drawn():
    data = load.of_lines(lines())
    assert data["shown"]["offered_per_s"] == 200
    curve, bars, seconds, p99, good = load.load_charts(data)
    assert marks(curve, "latency") == [("0.0", 1.0), ("1.0", 2.0), ("2.0", 20.0)]
    assert marks(bars, "answers") == [("1–2 ms", 7.0), ("2–5 ms", 3.0)]
    assert marks(seconds, "worst") == [("0.0", 3.0)]
    assert marks(p99, "p99") == [("100", 10.0), ("200", 20.0), ("300", 30.0), ("400", 40.0)]
    assert marks(good, "good")[-1] == ("400", 360.0)


def test_one_rate_that_is_not_valid_says_so():
    rows = lines()[-2:]
    (curve, *_) = load.load_charts(load.of_lines(rows))
    assert "not valid: late" in str(curve)


def test_a_run_without_a_point_or_with_damaged_lines_has_no_load():
    assert load.of_lines([]) is None and load.of_lines([{"type": "progress"}]) is None
    assert load.of_lines(lines()[:1]) is None
    assert load.of_lines([{"type": "operating_point", "offered_per_s": "many"}, {"type": "load"}]) is None
    assert load.load_charts(load.of_lines([*lines()[:1], {"type": "load", "seconds": [None, 3]}]))


@pytest.mark.parametrize(("value", "text"), [(0, "0 %"), (1, "90 %"), (2, "99 %"), (3, "99.9 %"), (4, "99.99 %")])
def test_nines(value, text):
    assert load.nines(value) == text
