"""A load that `gyral bench serve` put on a server → the data of its page and its charts, from the lines of its run.

The curve of percentiles has nines along x, as HDR histograms draw it, because what is looked for lies in the last hundredth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from gyral.dash import charts, formats
from gyral.dash.charts import Bar, Series

Data = dict[str, Any]


def of_lines(lines: Sequence[Mapping[str, Any]]) -> Data | None:
    """Points by their rate, and what is drawn of the one that counts: of a ramp the highest that was held; None without any."""
    points = [line for line in lines if line.get("type") == "operating_point" and formats.is_number(line.get("offered_per_s"))]
    drawn = [line for line in lines if line.get("type") == "load"]
    if not points or len(drawn) < len(points):
        return None
    pairs = sorted(zip(points, drawn, strict=False), key=lambda pair: pair[0]["offered_per_s"])
    held = [pair for pair in pairs if pair[0].get("holds") and pair[0].get("is_valid")]
    point, shown = held[-1] if held else pairs[0]
    return {
        "points": [dict(each) for each, _ in pairs],
        "shown": dict(point),
        "curve": shown.get("curve") or [],
        "histogram": shown.get("histogram") or [],
        "seconds": shown.get("seconds") or [],
    }


def load_charts(load: Mapping[str, Any]) -> list[Markup]:
    """Percentiles, histogram, what each second saw, and of a ramp what each rate did."""
    shown = load["shown"]
    rate = f"{formats.count(shown['offered_per_s'])}/s, {formats.count(shown.get('num_requests'))} requests"
    note = rate if shown.get("is_valid") else f"{rate}; not valid: {shown.get('why', '')}"
    curve = [Series("latency", [(x, y) for x, y in load["curve"]])]
    drawn = [
        charts.line_chart(
            curve, title="Latency by percentile", y_label=note, x_label="percentile", x_format=nines,
            y_format=formats.milliseconds, y_tick=_ms_tick,
        ),
        charts.bar_chart(
            [Bar(f"{low:g}–{high:g} ms", number, formats.count(number)) for low, high, number in load["histogram"]],
            title="Answers by latency", series="answers",
        ),
    ]  # fmt: skip
    seconds = [row for row in load["seconds"] if isinstance(row, dict)]
    if len(seconds) > 1:
        lines = [
            Series(name, [(row["t"], row.get(key)) for row in seconds], role)
            for name, key, role in (("worst", "max_ms", "frozen"), ("median", "p50_ms", "one"))
        ]
        drawn.append(
            charts.line_chart(
                lines, title="Latency by when requests were due", x_label="seconds", x_format=formats.count,
                y_format=formats.milliseconds, y_tick=_ms_tick, height=150,
            )
        )  # fmt: skip
    if len(load["points"]) > 1:
        drawn += _by_rate(load["points"])
    return drawn


def _by_rate(points: Sequence[Mapping[str, Any]]) -> list[Markup]:
    rates = [(each["offered_per_s"], each) for each in points]
    p99 = [Series("p99", [(rate, (each.get("latency") or {}).get("p99_ms")) for rate, each in rates])]
    good = [
        Series("offered", [(rate, rate) for rate, _ in rates], "popularity"),
        Series("good", [(rate, each.get("good_per_s")) for rate, each in rates], "looped"),
    ]
    label: dict[str, Any] = {"x_label": "requests a second", "x_format": formats.compact, "height": 150}
    return [
        charts.line_chart(p99, title="p99 by rate", y_format=formats.milliseconds, y_tick=_ms_tick, **label),
        charts.line_chart(good, title="Answers in time by rate", y_label="a second", y_format=formats.compact, **label),
    ]


def nines(value: float) -> str:
    """Write a place on the axis of percentiles: 0 → `0 %`, 2 → `99 %`, 3 → `99.9 %`."""
    return f"{100 * (1 - 10.0**-value):.{max(round(value) - 2, 0)}f} %"


def _ms_tick(value: float) -> str:
    return f"{value:g} ms"
