"""Counts and sizes → horizontal bars, a funnel, stacked bars.

Bars carry their label above them, which leaves no margin that a long name could overflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from gyral.dash import formats
from gyral.dash.charts.marks import ROW_HEIGHT, drawing, figure, legend, rect, row_text, track


class Bar(NamedTuple):
    """One bar: label left, `text` right, `note` behind the label."""

    label: str
    value: float | None
    text: str
    role: str = "one"
    note: str = ""


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
    named = legend([(reference[0], "floor")], "line") if reference else Markup()
    return figure(title, note, named + drawing(height, f"{title}. {spoken}", parts, "bars"))


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
    named = [(name, f"part-{index % 6}") for index, name in enumerate(names)]
    spoken = "; ".join(f"{label} {formats.duration(sum(parts.values()))}" for label, parts in rows)
    return figure(title, note, legend(named, "box") + drawing(len(rows) * ROW_HEIGHT, f"{title}. {spoken}", marks, "bars"))
