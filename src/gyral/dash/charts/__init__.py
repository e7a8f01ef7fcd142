"""Numbers → inline SVG: lines, spots, bars, a funnel. Pure functions, no script, no fixed width.

Every mark carries `data-series`, `data-x` and `data-y` with the exact values, so a test (or a person with the
inspector) can compare a chart with the file it was drawn from. Colours are classes; the style sheet owns them.
"""

from gyral.dash.charts.bars import Bar, bar_chart, funnel, stacked_bars
from gyral.dash.charts.lines import Series, line_chart, ticks
from gyral.dash.charts.marks import ROW_HEIGHT, Format, drawing, figure, legend, rect, row_text, track
from gyral.dash.charts.spots import Spot, scatter_chart

__all__ = [
    "ROW_HEIGHT",
    "Bar",
    "Format",
    "Series",
    "Spot",
    "bar_chart",
    "drawing",
    "figure",
    "funnel",
    "legend",
    "line_chart",
    "rect",
    "row_text",
    "scatter_chart",
    "stacked_bars",
    "ticks",
    "track",
]
