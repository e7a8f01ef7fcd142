"""A tornado: what each assumption does to a total when it is low or high and the others are held."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gyral.dash import charts, formats
from gyral.dash.charts import ROW_HEIGHT, Format
from gyral.plan.cost import Swing


def tornado(
    swings: Sequence[Swing], total: float, *, title: str, names: dict[str, str] | None = None, told: Format = formats.compact
) -> Markup:
    """Draw a bar a row from where an assumption's low end takes the total to where its high end does, the widest first.

    Parameters
    ----------
    total : with all assumptions at their value; a dashed line across the rows.
    names : of figures, as people read them.
    """
    if not swings:
        return charts.figure(title, "", Markup('<p class="none">No assumptions to move.</p>'))
    ends = [end for each in swings for end in (each.at_low, each.at_high)] + [total]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0
    parts = []
    for index, each in enumerate(sorted(swings, key=lambda swing: -swing.width)):
        y, (start, end) = index * ROW_HEIGHT, sorted((each.at_low, each.at_high))
        text = f"{told(each.at_low)} … {told(each.at_high)}"
        left, label = 100 * (start - low) / span, (names or {}).get(each.name, formats.words(each.name))
        parts += [charts.row_text(y, label, each.figure.by, text), charts.track(y)]
        width = 100 * (end - start) / span
        parts.append(charts.rect(y, left, width, "fill-one", "swing", each.name, end - start, f"{label}: {text}"))
        parts.append(
            Markup(
                '<line class="floor" x1="{0:.3f}%" x2="{0:.3f}%" y1="{1}" y2="{2}" data-series="total" data-x="{4}" '
                'data-y="{3}"/>'
            ).format(100 * (total - low) / span, y + 15, y + 35, total, each.name)
        )
    spoken = "; ".join(f"{each.name} {told(each.at_low)} to {told(each.at_high)}" for each in swings)
    height = len(swings) * ROW_HEIGHT
    return charts.figure(title, "", charts.drawing(height, f"{title}, {told(total)}. {spoken}", parts, "bars"))
