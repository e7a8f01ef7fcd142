"""Numbers → inline SVG: lines, bars, a funnel and stacked bars. Pure functions, no script, no fixed width.

A chart with a `viewBox` shrinks its letters on a narrow screen. Here positions along x are percentages and only the
lines live in a stretched inner `viewBox` with `non-scaling-stroke`, so letters and dots keep their size from 340 px to
any width. Bars carry their label above them, which leaves no margin that a long name could overflow.

Every mark carries `data-series`, `data-x` and `data-y` with the exact values, so a test (or a person with the
inspector) can compare a chart with the file it was drawn from. Colours are classes; the style sheet owns them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from gyral.dash import formats

PLOT_HEIGHT = 220
ROW_HEIGHT = 40
MAX_LABEL = 30
_MANY_POINTS = 40
_END_GAP = 16

Format = Callable[[float], str]


class Series(NamedTuple):
    """One line: its name, its points (y None is a gap) and the class that colours it."""

    name: str
    points: Sequence[tuple[float, float | None]]
    role: str = "one"


class Bar(NamedTuple):
    """One bar: label left, `text` right, `note` behind the label."""

    label: str
    value: float | None
    text: str
    role: str = "one"
    note: str = ""


class Spot(NamedTuple):
    """One mark of a scatter: its name stands beside it, `note` in its title."""

    name: str
    x: float
    y: float
    role: str = "one"
    note: str = ""


def ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Choose about `target` round numbers (1, 2, 2.5 or 5 times a power of ten) that cover `low` to `high`."""
    span = high - low if high > low else abs(high) or 1.0
    raw = span / max(target - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * power for unit in (1, 2, 2.5, 5, 10) if unit * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


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
        _grid(y_ticks, top, y_tick or y_format),
        _x_axis([(x, left(x)) for x in x_ticks], x_format, x_label, height),
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
    legend = [(one.name, one.role) for one in series] if len(series) > 1 else []
    return figure(
        title,
        y_label,
        _legend(legend, "line") + Markup('<div class="frame{}">').format("" if ends else " no-ends") + svg + Markup("</div>"),
    )


def scatter_chart(
    spots: Sequence[Spot], *, title: str, series: str, x_label: str, y_label: str = "", x_format: Format = formats.compact,
    y_format: Format = formats.metric, height: int = PLOT_HEIGHT,
) -> Markup:  # fmt: skip
    """Draw marks over two measures, both from zero; the name stands left of a mark in the right half."""
    if not spots:
        return figure(title, "", Markup('<p class="none">No numbers yet.</p>'))
    y_ticks = ticks(min(0.0, *(each.y for each in spots)), max(0.0, *(each.y for each in spots)) or 1.0)
    x_ticks = ticks(0.0, max(each.x for each in spots) or 1.0)
    parts = [
        _grid(y_ticks, lambda y: height * (1 - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])), y_format),
        _x_axis([(x, 100 * x / x_ticks[-1]) for x in x_ticks], x_format, x_label, height),
    ]
    placed: list[tuple[float, float]] = []
    for each in sorted(spots, key=lambda spot: spot.y):
        left, top = 100 * each.x / x_ticks[-1], height * (1 - (each.y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))
        label = top - 9
        while any(abs(x - left) < 16 and abs(y - label) < _END_GAP for x, y in placed):
            label -= _END_GAP
        placed.append((left, label))
        told = f"{each.name}: {x_format(each.x)}, {y_format(each.y)}{', ' * bool(each.note)}{each.note}"
        parts.append(
            Markup(
                '<circle class="dot fill-{0}" cx="{1:.3f}%" cy="{2:.2f}" r="5" data-series="{3}" data-name="{4}" data-x="{5}" '
                'data-y="{6}"><title>{7}</title></circle>'
                '<text class="tick x" x="{1:.3f}%" y="{9:.2f}" style="text-anchor:{8}">{4}</text>'
            ).format(each.role, left, top, series, each.name, each.x, each.y, told, "end" if left > 50 else "start", label)
        )
    spoken = "; ".join(f"{each.name} {x_format(each.x)} {y_format(each.y)}" for each in spots)
    svg = drawing(height + 44, f"{title}. {spoken}", parts, "plot")
    return figure(title, y_label, Markup('<div class="frame">') + svg + Markup("</div>"))


def bar_chart(
    bars: Sequence[Bar], *, title: str, series: str, note: str = "", reference: tuple[str, float] | None = None
) -> Markup:
    """Draw one horizontal bar a row; `reference` is a dashed line across all of them, for a floor to beat."""
    if not bars:
        return figure(title, note, Markup('<p class="none">Nothing to show yet.</p>'))
    longest = max([bar.value or 0 for bar in bars] + ([reference[1]] if reference else []))
    parts = []
    for index, bar in enumerate(bars):
        width = 100 * max(bar.value or 0, 0) / longest if longest > 0 else 0
        y = index * ROW_HEIGHT
        parts.append(row_text(y, bar.label, bar.note, bar.text))
        parts.append(track(y))
        parts.append(rect(y, 0, width, f"fill-{bar.role}", series, bar.label, bar.value, f"{bar.label}: {bar.text}"))
    height = len(bars) * ROW_HEIGHT
    if reference:
        at = 100 * reference[1] / longest if longest > 0 else 0
        parts += [
            Markup(
                '<line class="floor" x1="{0}%" x2="{0}%" y1="{1}" y2="{2}" data-series="floor" data-x="{3}" data-y="{4}"/>'
            ).format(f"{at:.3f}", y * ROW_HEIGHT + 15, y * ROW_HEIGHT + 35, reference[0], reference[1])
            for y in range(len(bars))
        ]
    spoken = "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    legend = _legend([(reference[0], "floor")], "line") if reference else Markup()
    return figure(title, note, legend + drawing(height, f"{title}. {spoken}", parts, "bars"))


def funnel(
    total: int,
    dropped: Mapping[str, int],
    kept: int,
    *,
    title: str,
    unit: str = "rows",
    ends: tuple[str, str] = ("read", "kept"),
) -> Markup:
    """Draw what is left after each reason, in the order of the rules; what goes is drawn where it is cut off."""
    whole = max(total, 1)
    parts = [row_text(0, ends[0], "", f"{formats.count(total)} {unit}"), track(0)]
    parts.append(
        rect(0, 0, 100 * total / whole, "fill-whole", "read", ends[0], total, f"{ends[0]}: {formats.count(total)} {unit}")
    )
    left = total
    rows = list(dropped.items())
    for index, (reason, number) in enumerate(rows, start=1):
        y = index * ROW_HEIGHT
        left -= number
        text = f"−{formats.count(number)}  ({formats.share(number / whole)})" if number else "0"
        width = max(100 * number / whole, 0.4) if number else 0
        start = min(100 * max(left, 0) / whole, 100 - width)
        name = formats.words(reason)
        parts += [row_text(y, name, "", text), track(y)]
        parts.append(rect(y, 0, start, "fill-left", "left", reason, left, f"left after {name}: {formats.count(left)} {unit}"))
        parts.append(
            rect(
                y,
                start,
                width,
                "fill-dropped",
                "dropped",
                reason,
                number,
                f"{name}: {formats.count(number)} {unit} dropped",
            )
        )
    y = (len(rows) + 1) * ROW_HEIGHT
    parts += [row_text(y, ends[1], "", f"{formats.count(kept)} {unit}  ({formats.share(kept / whole)})"), track(y)]
    parts.append(rect(y, 0, 100 * kept / whole, "fill-kept", "kept", ends[1], kept, f"{ends[1]}: {formats.count(kept)} {unit}"))
    spoken = f"{title}. {formats.count(total)} {unit} {ends[0]}, {formats.count(kept)} {ends[1]}."
    return figure(title, "", drawing(y + ROW_HEIGHT, spoken, parts, "bars"))


def stacked_bars(rows: Sequence[tuple[str, Mapping[str, float]]], *, title: str, note: str = "") -> Markup:
    """Draw one bar a row, cut into named parts; all rows share the scale. Parts are seconds."""
    names = list(dict.fromkeys(name for _, parts in rows for name in parts))
    longest = max((sum(parts.values()) for _, parts in rows), default=0)
    if longest <= 0:
        return figure(title, note, Markup('<p class="none">No times yet.</p>'))
    marks = []
    for index, (label, parts) in enumerate(rows):
        y = index * ROW_HEIGHT
        marks.append(row_text(y, label, "", formats.duration(sum(parts.values()))))
        marks.append(track(y))
        start = 0.0
        for name, seconds in parts.items():
            width = 100 * seconds / longest
            role = f"fill-part part-{names.index(name) % 6}"
            marks.append(rect(y, start, width, role, name, label, seconds, f"{label}, {name}: {formats.duration(seconds)}"))
            start += width
    legend = [(name, f"part-{index % 6}") for index, name in enumerate(names)]
    spoken = "; ".join(f"{label} {formats.duration(sum(parts.values()))}" for label, parts in rows)
    return figure(title, note, _legend(legend, "box") + drawing(len(rows) * ROW_HEIGHT, f"{title}. {spoken}", marks, "bars"))


def _grid(y_ticks: Sequence[float], top: Callable[[float], float], y_format: Format) -> Markup:
    return Markup("").join(
        Markup(
            '<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>'
            '<text class="tick y" x="0" dx="-10" y="{0:.1f}" dy=".35em">{1}</text>'
        ).format(top(value), _tick(value, y_ticks, y_format))
        for value in y_ticks
    )


def _x_axis(marks: Sequence[tuple[float, float]], x_format: Format, label: str, height: int) -> Markup:
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
        places[index] = max(places[index], places[index - 1] + _END_GAP)
    overflow = max(places[-1] - height, 0) if places else 0
    for index in range(len(places) - 1, -1, -1):
        ceiling = height if index == len(places) - 1 else places[index + 1] - _END_GAP
        places[index] = min(places[index], ceiling) if overflow else places[index]
    return [
        Markup(
            '<text class="end text-{0}" x="{1:.3f}%" dx="10" y="{2:.1f}" dy=".35em">{3}<tspan class="who"> {4}</tspan></text>'
        ).format(one.role, left(x), place, y_format(y), one.name if len(series) > 1 else "")
        for place, (_, (x, y), one) in zip(places, ends, strict=True)
    ]


def row_text(y: float, label: str, note: str, text: str) -> Markup:
    short = label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"
    behind = Markup('<tspan class="note" dx="8">{}</tspan>').format(note) if note else Markup()
    return Markup(
        '<text class="label" x="0" y="{0}"><title>{1}</title>{2}{3}</text><text class="value" x="100%" y="{0}">{4}</text>'
    ).format(y + 13, label, short, behind, text)


def track(y: float) -> Markup:
    return Markup('<rect class="track" x="0" y="{0}" width="100%" height="10" rx="2"/>').format(y + 20)


def rect(y: float, start: float, width: float, role: str, series: str, x: str, value: float | None, title: str) -> Markup:
    return Markup(
        '<rect class="{0}" x="{1:.3f}%" y="{2}" width="{3:.3f}%" height="10" rx="2" '
        'data-series="{4}" data-x="{5}" data-y="{6}"><title>{7}</title></rect>'
    ).format(role, start, y + 20, max(width, 0), series, x, "" if value is None else value, title)


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


_DOT = Markup(
    '<svg class="key" width="10" height="10" aria-hidden="true"><circle class="fill-{}" cx="5" cy="5" r="3.5"/></svg>'
)


def _legend(entries: Sequence[tuple[str, str]], kind: str) -> Markup:
    mark = {
        "line": Markup(
            '<svg class="key" width="22" height="10" aria-hidden="true"><path class="stroke-{}" d="M0 5H22"/></svg>'
        ),
        "box": Markup(
            '<svg class="key" width="10" height="10" aria-hidden="true">'
            '<rect class="fill-part {}" width="10" height="10" rx="2"/></svg>'
        ),
    }[kind]
    items = Markup("").join(
        Markup("<li>{0}{1}</li>").format((_DOT if role == "seen" else mark).format(role), name) for name, role in entries
    )
    return Markup('<ul class="legend">{}</ul>').format(items) if entries else Markup()


def drawing(height: float, label: str, parts: Sequence[Markup], role: str) -> Markup:
    open_tag = Markup('<svg class="{0}" width="100%" height="{1}" role="img" aria-label="{2}">').format(role, height, label)
    return open_tag + Markup("").join(parts) + Markup("</svg>")


def figure(title: str, note: str, body: Markup) -> Markup:
    behind = Markup(' <span class="note">{}</span>').format(note) if note else Markup()
    return Markup('<figure class="chart"><figcaption>{0}{1}</figcaption>{2}</figure>').format(escape(title), behind, body)
