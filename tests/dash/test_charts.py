"""The charts: exact numbers in the marks, positions that follow from them, and text that stays inside."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.dash import charts, formats, gather
from gyral.dash.charts import Bar, Series
from gyral.dash.ring import Node, ring

FINITE = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False, width=64)


def attributes(markup, tag):
    return [dict(re.findall(r'([\w-]+)="([^"]*)"', found)) for found in re.findall(rf"<{tag} ([^>]*)>", str(markup))]


@given(low=FINITE, span=st.floats(min_value=1e-6, max_value=1e9))
def test_ticks_cover_the_range_evenly_with_round_numbers(low, span):
    high = low + span
    marks = charts.ticks(low, high)
    steps = {round((b - a) / span, 6) for a, b in pairwise(marks)}
    if span > abs(low) * 1e-6:
        assert marks[0] <= low + span * 1e-6 and marks[-1] >= high - span * 1e-6
        assert 2 <= len(marks) <= 8
        assert len(steps) == 1 or max(steps) - min(steps) < 1e-3


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 0.2, [0, 0.05, 0.1, 0.15, 0.2]), (0, 1, [0, 0.25, 0.5, 0.75, 1]), (0, 7, [0, 2, 4, 6, 8]), (0, 0, [0, 0.25])],
)
def test_ticks(low, high, expected):
    assert charts.ticks(low, high) == expected


def test_a_line_chart_carries_exact_numbers_and_true_positions():
    points = [(1, 0.1 + 0.2), (2, 0.25), (3, 0.5)]
    marks = attributes(charts.line_chart([Series("looped", points, "looped")], title="t", height=200), "circle")
    assert [(float(mark["data-x"]), float(mark["data-y"])) for mark in marks] == points
    assert [mark["data-series"] for mark in marks] == ["looped"] * 3
    assert [mark["cx"] for mark in marks] == ["0.000%", "50.000%", "100.000%"]
    tops = [float(mark["cy"]) for mark in marks]
    ratio = (tops[0] - tops[1]) / (tops[1] - tops[2])
    assert ratio == pytest.approx((0.3 - 0.25) / (0.25 - 0.5), rel=0.02)


def test_a_gap_lifts_the_pen():
    chart = charts.line_chart([Series("a", [(1, 1.0), (2, None), (3, 2.0), (4, 3.0)])], title="t")
    path = next(mark["d"] for mark in attributes(chart, "path") if "vector-effect" in mark)
    assert (path.count("M"), path.count("L")) == (2, 1)
    assert len(attributes(chart, "circle")) == 3


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=6))
def test_end_labels_never_overlap_and_stay_in_the_plot(ends):
    series = [Series(f"s{index}", [(1, 0.5), (2, end)]) for index, end in enumerate(ends)]
    labels = [
        mark for mark in attributes(charts.line_chart(series, title="t", height=220), "text") if mark["class"].startswith("end")
    ]
    tops = sorted(float(mark["y"]) for mark in labels)
    assert len(tops) == len(ends)
    assert all(b - a >= 15.8 for a, b in pairwise(tops))
    assert tops[0] >= -0.1 and tops[-1] <= 220.1


@pytest.mark.parametrize("points", [[], [(1, None)], [(1, 0.0)], [(3, 0.2)], [(1, -0.5), (2, 0.5)], [(1, 1e-9), (2, 2e-9)]])
def test_degenerate_lines_render(points):
    chart = str(charts.line_chart([Series("a", points)], title="t"))
    assert "nan" not in chart and "inf" not in chart
    assert ("No numbers yet" in chart) == (not any(y is not None for _, y in points))


def test_bars_are_in_proportion_and_the_floor_is_drawn_on_each():
    chart = charts.bar_chart(
        [Bar("ease", 0.2, "0.200", "chosen", "chosen"), Bar("popularity", 0.05, "0.050")],
        title="t",
        series="ndcg",
        reference=("floor", 0.05),
    )
    bars = [mark for mark in attributes(chart, "rect") if "data-y" in mark]
    assert [(mark["data-x"], float(mark["data-y"]), mark["width"]) for mark in bars] == [
        ("ease", 0.2, "100.000%"),
        ("popularity", 0.05, "25.000%"),
    ]
    assert [mark["x1"] for mark in attributes(chart, "line")] == ["25.000%"] * 2


@given(st.lists(st.integers(min_value=0, max_value=10**9), max_size=6), st.integers(min_value=0, max_value=10**9))
def test_a_funnel_adds_up_and_stays_in_its_width(dropped, kept):
    total = kept + sum(dropped)
    reasons = {f"reason_{index}": number for index, number in enumerate(dropped)}
    marks = [mark for mark in attributes(charts.funnel(total, reasons, kept, title="t"), "rect") if "data-y" in mark]
    left = [int(mark["data-y"]) for mark in marks if mark["data-series"] == "left"]
    assert [int(mark["data-y"]) for mark in marks if mark["data-series"] == "dropped"] == dropped
    assert (left or [total])[-1] == kept
    for mark in marks:
        start, width = float(mark["x"].rstrip("%")), float(mark["width"].rstrip("%"))
        assert start >= 0 and width >= 0 and start + width <= 100.01


def test_stacked_bars_share_one_scale():
    rows = [("turn 1", {"train": 3.0, "ask": 1.0}), ("turn 2", {"train": 6.0, "ask": 2.0})]
    marks = [mark for mark in attributes(charts.stacked_bars(rows, title="t"), "rect") if "data-y" in mark]
    assert [(mark["data-series"], mark["data-x"], float(mark["data-y"])) for mark in marks] == [
        (name, label, seconds) for label, parts in rows for name, seconds in parts.items()
    ]
    assert [mark["width"] for mark in marks] == ["37.500%", "12.500%", "75.000%", "25.000%"]
    assert "No times yet" in charts.stacked_bars([], title="t")


def test_the_ring_closes():
    names = ["ingest", "curate", "train", "compress", "serve"]
    chart = ring([Node(name, ["a", "b"], "done", f"runs/{name}") for name in names], title="loop", centre=("x", "+1 %", "y"))
    centres = [(float(mark["cx"]), float(mark["cy"])) for mark in attributes(chart, "circle")]
    assert len(centres) == 5
    assert len({round(math.dist(centre, (200, 203)), 0) for centre in centres}) == 1
    nearest = min(math.dist(a, b) for a in centres for b in centres if a != b)
    assert nearest > 110, "nodes do not touch"
    assert all(55 < x < 345 and 55 < y < 331 for x, y in centres), "nodes stay inside the picture"
    assert str(chart).count('class="arrow') == 5 and str(chart).count('class="arrow back"') == 1
    assert [mark["href"] for mark in attributes(chart, "a")] == [f"runs/{name}" for name in names]


def test_all_text_is_escaped():
    bad = "<script>\"'&"
    drawn = [
        charts.line_chart([Series(bad, [(1, 1.0)], bad)], title=bad, x_label=bad, y_label=bad),
        charts.bar_chart([Bar(bad, 1, bad, bad, bad)], title=bad, series=bad, note=bad, reference=(bad, 1.0)),
        charts.funnel(3, {bad: 1}, 2, title=bad, unit=bad, ends=(bad, bad)),
        charts.stacked_bars([(bad, {bad: 1.0})], title=bad),
        ring([Node(bad, [bad], bad, bad)], title=bad, centre=(bad,)),
    ]
    for markup in drawn:
        assert "<script>" not in markup and "\"'&" not in markup
        assert "&lt;script&gt;" in markup


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.compact(370_123), "370k"),
        (formats.compact(999_950), "1.0M"),
        (formats.compact(0.1309), "0.13"),
        (formats.compact(2.14), "2.1"),
        (formats.size(12_345_678), "12.3 MB"),
        (formats.count(541_909), "541,909"),
        (formats.metric(0.19876), "0.199"),
        (formats.metric(None), "–"),
        (formats.signed_share(-0.031), "−3.1 %"),
        (formats.signed_share(0.38), "+38.0 %"),
        (formats.duration(0.041), "41 ms"),
        (formats.metric_name("hit_at_10"), "hit rate@10"),
        (formats.moment("2026-03-12T14:02:00+02:00"), "12 Mar 2026, 12:02 UTC"),
        (formats.moment("yesterday"), "yesterday"),
        (formats.age("2026-03-12T14:02:00Z", formats.parse("2026-03-12T14:05:10Z")), "3 min ago"),
    ],
)
def test_formats(text, expected):
    assert text == expected


def test_a_training_is_told_by_the_metric_of_its_task():
    told = {
        "probe_accuracy": "masked, probe accuracy 0.812",
        "loss": "masked, 0.812 loss",
        "effective_rank": "masked, 0.812 directions used",
        "bits_per_byte": "masked, 0.812 bits per byte",
        "r_at_1": "masked, R@1 0.812",
    }
    for metric, text in told.items():
        assert gather.headline("train", {"chosen": "masked", metric: 0.812}) == text


def test_without_ends_the_legend_alone_names_the_lines_and_dots_are_dots():
    lines = [Series("runs", [(1, 3.0), (2, 2.0)], "seen"), Series("law", [(1, 3.1), (2, 2.1)], "one")]
    with_ends, without = (str(charts.line_chart(lines, title="t", ends=ends)) for ends in (True, False))
    assert 'class="end' in with_ends and 'class="end' not in without and "no-ends" in without
    legend = without[: without.index('<div class="frame')]
    assert legend.count('<circle class="fill-seen"') == 1 and legend.count('<path class="stroke-one"') == 1


def test_spots_that_cover_one_another_share_a_label_that_stays_below_the_title():
    spots = [
        charts.Spot("a@1", 10.0, 0.5, href="models/a@1", label="1", on_front=True),
        charts.Spot("b@1", 10.0, 0.5, href="models/b@1", label="2", on_front=True),
        charts.Spot("c@1", 90.0, 0.1, href="models/c@1", label=""),
    ]
    drawn = str(charts.scatter_chart(spots, title="Front", series="s", x_label="x", from_zero=False))
    labels = re.findall(r'<text class="tick x" x="10\.[^"]*" y="([-.0-9]+)"[^>]*>([^<]+)</text>', drawn)
    assert [text for _, text in labels] == ["1, 2"] and float(labels[0][0]) > 5
    links = re.findall(r'<a href="([^"]+)" aria-label="([^"]+)">', drawn)
    assert {href for href, _ in links} == {"models/a@1", "models/b@1", "models/c@1"} and 'role="group"' in drawn
    assert all(name.startswith(href.removeprefix("models/")) for href, name in links) and "<desc>" in drawn
