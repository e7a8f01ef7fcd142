"""Numbers over numbers → lines on two axes.

A chart with a `viewBox` shrinks its letters on a narrow screen. Here positions along x are percentages and only the
lines live in a stretched inner `viewBox` with `non-scaling-stroke`, so letters and dots keep their size from 340 px to
any width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from gyral.dash import formats
from gyral.dash.charts.marks import Format, drawing, figure, legend

PLOT_HEIGHT = 220
_MANY_POINTS = 40
END_GAP = 16


class Series(NamedTuple):
    """One line: its name, its points (y None is a gap) and the class that colours it."""

    name: str
    points: Sequence[tuple[float, float | None]]
    role: str = "one"


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
    x_format: Format = formats.compact,
    y_format: Format = formats.metric,
    y_tick: Format | None = None,
    height: int = PLOT_HEIGHT,
    from_zero: bool = True,
    ends: bool = True,
) -> Markup:
    """Draw series over a common x axis; the y axis starts at zero (or below), so heights compare, unless told otherwise.

    Without `ends`, no name and last value stand beside the last points: the legend names them, and the plot is wider.
    """
    xs = sorted({x for one in series for x, _ in one.points})
    ys = [y for one in series for _, y in one.points if y is not None]
    if not xs or not ys:
        return figure(title, "", Markup('<p class="none">No numbers yet.</p>'))
    y_ticks = ticks(min(0.0, *ys), max(0.0, *ys) or 1.0) if from_zero else ticks(min(ys), max(ys))
    few_whole = len(xs) <= 12 and all(x == int(x) for x in xs)
    x_ticks = xs if few_whole else [x for x in ticks(xs[0], xs[-1], 5) if xs[0] <= x <= xs[-1]]

    def left(x: float) -> float:
        return 100 * (x - xs[0]) / (xs[-1] - xs[0]) if xs[-1] > xs[0] else 50.0

    def top(y: float) -> float:
        return height * (1 - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))

    parts = [
        grid(y_ticks, top, y_tick or y_format),
        x_axis([(x, left(x)) for x in x_ticks], x_format, x_label, height),
    ]
    parts.append(
        Markup('<svg class="lines" width="100%" height="{0}" viewBox="0 0 100 {0}" preserveAspectRatio="none">').format(height)
    )
    parts += [_path(one, left, top) for one in series]
    parts.append(Markup("</svg>"))
    parts += [_dots(one, left, top, x_format, y_format, x_label) for one in series]
    if ends:
        parts += _end_labels(series, left, top, y_format, height)
    svg = drawing(height + (44 if x_label else 26), f"{title}. {_spoken(series, y_format)}", parts, "plot")
    named = [(one.name, one.role) for one in series] if len(series) > 1 else []
    return figure(
        title,
        y_label,
        legend(named, "line") + Markup('<div class="frame{}">').format("" if ends else " no-ends") + svg + Markup("</div>"),
    )


def ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Choose about `target` round numbers (1, 2, 2.5 or 5 times a power of ten) that cover `low` to `high`."""
    span = high - low if high > low else abs(high) or 1.0
    raw = span / max(target - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * power for unit in (1, 2, 2.5, 5, 10) if unit * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def grid(y_ticks: Sequence[float], top: Callable[[float], float], y_format: Format) -> Markup:
    return Markup("").join(
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>'
            '<text class="tick y" x="0" dx="-10" y="{0:.1f}" dy=".35em">{1}</text>'
        ).format(top(value), _tick(value, y_ticks, y_format))
        for value in y_ticks
    )


def x_axis(marks: Sequence[tuple[float, float]], x_format: Format, label: str, height: int) -> Markup:
    texts = Markup("").join(
        Markup('<text class="tick x" x="{0:.3f}%" y="{1}">{2}</text>').format(at, height + 20, x_format(value))
        for value, at in marks
    )
    return texts + (Markup('<text class="axis" x="50%" y="{0}">{1}</text>').format(height + 40, label) if label else Markup())


def _path(one: Series, left: Callable[[float], float], top: Callable[[float], float]) -> Markup:
    steps, pen_down = [], False
    for x, y in one.points:
        if y is not None:
            steps.append(f"{'L' if pen_down else 'M'}{left(x):.3f} {top(y):.2f}")
        pen_down = y is not None
    return Markup('<path class="stroke-{0}" vector-effect="non-scaling-stroke" d="{1}"/>').format(one.role, "".join(steps))


def _dots(
    one: Series,
    left: Callable[[float], float],
    top: Callable[[float], float],
    x_format: Format,
    y_format: Format,
    x_label: str,
) -> Markup:
    radius = 3.5 if len(one.points) <= _MANY_POINTS else 1.5
    return Markup("").join(
        Markup(
            '<circle class="dot fill-{0}" cx="{1:.3f}%" cy="{2:.2f}" r="{3}" '
            'data-series="{4}" data-x="{5}" data-y="{6}"><title>{7}</title></circle>'
        ).format(
            one.role,
            left(x),
            top(y),
            radius,
            one.name,
            x,
            y,
            f"{one.name}, {x_label} {x_format(x)}: {y_format(y)}".replace(",  ", ", "),
        )
        for x, y in one.points
        if y is not None
    )


def _end_labels(
    series: Sequence[Series],
    left: Callable[[float], float],
    top: Callable[[float], float],
    y_format: Format,
    height: int,
) -> list[Markup]:
    """Put name and last value beside the last point, pushed apart so that no two overlap."""
    ends = []
    for one in series:
        known = [(x, y) for x, y in one.points if y is not None]
        if known:
            ends.append((top(known[-1][1]), known[-1], one))
    ends.sort(key=lambda end: end[0])
    places = [place for place, _, _ in ends]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + END_GAP)
    overflow = max(places[-1] - height, 0) if places else 0
    for index in range(len(places) - 1, -1, -1):
        ceiling = height if index == len(places) - 1 else places[index + 1] - END_GAP
        places[index] = min(places[index], ceiling) if overflow else places[index]
    return [
        Markup(
            '<text class="end text-{0}" x="{1:.3f}%" dx="10" y="{2:.1f}" dy=".35em">{3}<tspan class="who"> {4}</tspan></text>'
        ).format(one.role, left(x), place, y_format(y), one.name if len(series) > 1 else "")
        for place, (_, (x, y), one) in zip(places, ends, strict=True)
    ]


def _tick(value: float, values: Sequence[float], y_format: Format) -> str:
    """Write a tick with as many decimals as the steps need, where the format would round two ticks to one text."""
    texts = [y_format(one) for one in values]
    if y_format is formats.metric:
        decimals = 1 if all(round(one, 1) == one for one in values) else 2 if all(round(one, 2) == one for one in values) else 3
        return f"{value:.{decimals}f}"
    return y_format(value) if len(set(texts)) == len(texts) else f"{value:g}"


def _spoken(series: Sequence[Series], y_format: Format) -> str:
    ends = []
    for one in series:
        known = [y for _, y in one.points if y is not None]
        if known:
            ends.append(f"{one.name}: {y_format(known[0])} to {y_format(known[-1])}")
    return "; ".join(ends)
