"""The ring: verbs on a circle, the output of the last is the input of the first.

The only drawing with a `viewBox`: it is square, its letters fit its nodes at 440 px and are still 10 px high at 340 px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

PLACES = ("above", "big", "below", "lag", "cost")
TOPS = (-44, -8, 14, 34, 51)
"""What stands in the middle, and where: px below its centre."""


class Node(NamedTuple):
    """One node of the ring: `lines` stand below the name, `href` may be empty."""

    name: str
    lines: Sequence[str]
    status: str
    href: str = ""


def ring(nodes: Sequence[Node], *, title: str, centre: Sequence[str] = ()) -> Markup:
    """Draw nodes on a circle, each with an arrow to the next, the last back to the first; `centre` has up to five lines."""
    middle_x, middle_y, radius, size = 200.0, 203.0, 138.0, 55.0
    parts = []
    step = 360 / max(len(nodes), 1)
    gap = math.degrees(2 * math.asin(size / 2 / radius)) + 4
    for index, node in enumerate(nodes):
        angle = -90 + index * step
        role = "arrow back" if index == len(nodes) - 1 else "arrow"
        parts.append(_arrow(middle_x, middle_y, radius, angle + gap, angle + step - gap - 2.5, role))
        x, y = middle_x + radius * math.cos(math.radians(angle)), middle_y + radius * math.sin(math.radians(angle))
        parts.append(_node(node, x, y, size))
    for index, (text, role, y) in enumerate(zip(centre, PLACES, TOPS, strict=False)):
        parts.append(
            Markup('<text class="centre {0}" x="{1}" y="{2}" data-line="{3}">{4}</text>').format(
                role, middle_x, middle_y + y, index, text
            )
        )
    open_tag = Markup('<svg class="ring" viewBox="0 0 400 386" role="group" aria-label="{}">').format(title)
    return open_tag + Markup("").join(parts) + Markup("</svg>")


def _node(node: Node, x: float, y: float, size: float) -> Markup:
    first = y + 3 - 8 * len(node.lines)
    lines = Markup("").join(
        Markup('<text class="line" x="{0:.1f}" y="{1:.1f}">{2}</text>').format(x, first + 18 + 16 * row, text)
        for row, text in enumerate(node.lines)
    )
    body = Markup(
        '<g class="node is-{0}"><title>{1}: {2}</title><circle cx="{3:.1f}" cy="{4:.1f}" r="{5}"/>'
        '<text class="name" x="{3:.1f}" y="{6:.1f}">{1}</text>{7}</g>'
    ).format(node.status.replace(" ", "-"), node.name, ", ".join(node.lines), x, y, size, first, lines)
    return Markup('<a href="{0}">{1}</a>').format(node.href, body) if node.href else body


def _arrow(x: float, y: float, radius: float, start: float, end: float, role: str) -> Markup:
    def at(angle: float, distance: float) -> tuple[float, float]:
        return x + distance * math.cos(math.radians(angle)), y + distance * math.sin(math.radians(angle))

    (x1, y1), (x2, y2), tip = at(start, radius), at(end, radius), at(end + 3.6, radius)
    inner, outer = at(end, radius - 5), at(end, radius + 5)
    return Markup(
        '<g class="{0}"><path d="M{1:.1f} {2:.1f}A{3} {3} 0 0 1 {4:.1f} {5:.1f}"/>'
        '<polygon points="{6:.1f},{7:.1f} {8:.1f},{9:.1f} {10:.1f},{11:.1f}"/></g>'
    ).format(role, x1, y1, radius, x2, y2, *tip, *inner, *outer)
