"""Marks over two measures → spots on two axes, each a link where it leads somewhere, with a line through those on a front.

A name beside each mark would hide its neighbours on a phone where models differ little, so a mark may carry a few letters
that a table below repeats; its whole name is said by its link and its title.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from gyral.dash import formats
from gyral.dash.charts.lines import END_GAP, PLOT_HEIGHT, grid, ticks, x_axis
from gyral.dash.charts.marks import Format, figure

NEAR = 16
"""Two labels whose marks are nearer along x, in hundredths of the plot, are moved apart."""

HIGHEST, LOWER = 6, 26
"""A label higher than this, px below the top, would meet the title; it goes so much lower, below its mark."""
LEAST_SPAN = 0.05
"""Of the largest value: the least that an axis that does not begin at zero covers."""


class Spot(NamedTuple):
    """One mark.

    Attributes
    ----------
    note : in its title, behind its name and its two measures.
    href : where it leads; empty: nowhere.
    label : what stands beside it; None: its name.
    on_front : whether the line of the front goes through it.
    """

    name: str
    x: float
    y: float
    role: str = "one"
    note: str = ""
    href: str = ""
    label: str | None = None
    on_front: bool = False


def scatter_chart(
    spots: Sequence[Spot], *, title: str, series: str, x_label: str, y_label: str = "", x_format: Format = formats.compact,
    y_format: Format = formats.metric, height: int = PLOT_HEIGHT, from_zero: bool = True,
) -> Markup:  # fmt: skip
    """Draw marks over two measures, x from zero, and y too unless told otherwise; labels of the right half stand left."""
    if not spots:
        return figure(title, "", Markup('<p class="none">No numbers yet.</p>'))
    ys = [each.y for each in spots]
    least = LEAST_SPAN * max(map(abs, ys))  # or a difference that means nothing would fill the plot
    y_ticks = ticks(min(0.0, *ys), max(0.0, *ys) or 1.0) if from_zero else ticks(min(*ys, max(ys) - least), max(ys))
    x_ticks = ticks(0.0, max(each.x for each in spots) or 1.0)

    def left(spot: Spot) -> float:
        return 100 * spot.x / x_ticks[-1]

    def top(y: float) -> float:
        return height * (1 - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))

    parts = [grid(y_ticks, top, y_format), x_axis([(x, 100 * x / x_ticks[-1]) for x in x_ticks], x_format, x_label, height)]
    front = sorted((each for each in spots if each.on_front), key=lambda each: each.x)
    if front:
        steps = " ".join(f"{left(each):.3f},{top(each.y):.2f}" for each in front)
        parts.append(
            Markup(
                '<svg class="lines" width="100%" height="{0}" viewBox="0 0 100 {0}" preserveAspectRatio="none">'
                '<polyline class="stroke-edge" vector-effect="non-scaling-stroke" points="{1}"/></svg>'
            ).format(height, steps)
        )
    placed: list[tuple[float, float]] = []
    drawn: list[Spot] = []
    for each in sorted(spots, key=lambda spot: (spot.on_front, spot.y)):  # what is on the front is drawn over the others
        place = top(each.y) - 9
        if each.label != "" and any(_is_at(other, each) and other.label for other in drawn):
            each = each._replace(label="")  # its number stands there: two models alike are one place
        elif each.label:
            same = [other.label or "" for other in spots if _is_at(other, each) and other.label]
            each = each._replace(label=", ".join(sorted(same, key=len)))
            place += LOWER * (place < HIGHEST)
        drawn.append(each)
        if each.label != "":
            while any(abs(x - left(each)) < NEAR and abs(y - place) < END_GAP for x, y in placed):
                place -= END_GAP
            placed.append((left(each), place))
        parts.append(_mark(each, left(each), top(each.y), place, series, x_format, y_format))
    spoken = "; ".join(_told(each, x_format, y_format) for each in spots)
    # a group, because the links inside of a picture would not be met by who reads with ears
    role = "group" if any(each.href for each in spots) else "img"
    svg = Markup('<svg class="plot" width="100%" height="{0}" role="{1}" aria-label="{2}"><desc>{3}</desc>{4}</svg>').format(
        height + 44, role, title if role == "group" else f"{title}. {spoken}", spoken, Markup("").join(parts)
    )
    return figure(title, y_label, Markup('<div class="frame{}">').format("" if _is_named(spots) else " no-ends") + svg
                  + Markup("</div>"))  # fmt: skip


def _mark(spot: Spot, left: float, top: float, place: float, series: str, x_format: Format, y_format: Format) -> Markup:
    told = _told(spot, x_format, y_format)
    drawn = Markup(
        '<circle class="dot fill-{0}" cx="{1:.3f}%" cy="{2:.2f}" r="5" data-series="{3}" data-name="{4}" data-x="{5}" '
        'data-y="{6}"><title>{7}</title></circle>'
    ).format(spot.role, left, top, series, spot.name, spot.x, spot.y, told)
    if label := spot.name if spot.label is None else spot.label:
        drawn += Markup('<text class="tick x" x="{0:.3f}%" y="{1:.2f}" style="text-anchor:{2}">{3}</text>').format(
            left, place, "end" if left > 50 else "start", label
        )
    return Markup('<a href="{0}" aria-label="{1}">{2}</a>').format(spot.href, told, drawn) if spot.href else drawn


def _is_at(one: Spot, other: Spot) -> bool:
    """Whether two marks cover one another."""
    return abs(one.x - other.x) <= 1e-3 * abs(other.x) and abs(one.y - other.y) <= 1e-3 * abs(other.y)


def _is_named(spots: Sequence[Spot]) -> bool:
    """Whether labels are so long that they need room beside the plot."""
    return any(spot.label is None for spot in spots)


def _told(spot: Spot, x_format: Format, y_format: Format) -> str:
    return f"{spot.name}: {x_format(spot.x)}, {y_format(spot.y)}{', ' * bool(spot.note)}{spot.note}"
