"""What all charts are made of: the figure with its title, the drawing, the legend, and a row of bars. Colours are classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

ROW_HEIGHT = 40
MAX_LABEL = 30

Format = Callable[[float], str]
"""A number → its text on an axis or beside a mark."""


def figure(title: str, note: str, body: Markup) -> Markup:
    behind = Markup(' <span class="note">{}</span>').format(note) if note else Markup()
    return Markup('<figure class="chart"><figcaption>{0}{1}</figcaption>{2}</figure>').format(escape(title), behind, body)


def drawing(height: float, label: str, parts: Sequence[Markup], role: str) -> Markup:
    open_tag = Markup('<svg class="{0}" width="100%" height="{1}" role="img" aria-label="{2}">').format(role, height, label)
    return open_tag + Markup("").join(parts) + Markup("</svg>")


_DOT = Markup(
    '<svg class="key" width="10" height="10" aria-hidden="true"><circle class="fill-{}" cx="5" cy="5" r="3.5"/></svg>'
)


def legend(entries: Sequence[tuple[str, str]], kind: str) -> Markup:
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
