"""What was foretold of a run, and what it came to: seconds, CPU seconds and memory by the runs before it, a loss by the law.

The first three are what `--plan` would have said before the run; nothing is kept for them. A loss stands in the model's card,
because a training that a law chose writes down what it expects before it begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gyral.dash import charts, formats
from gyral.dash.charts import ROW_HEIGHT
from gyral.dash.records import exists, read_card
from gyral.run import Lineage

NAMES = {"time": "time", "processor": "CPU time", "memory": "peak memory"}
UNITS = {"s": formats.duration, "CPU-s": formats.duration, "bytes": formats.size}
Data = dict[str, Any]


def of_runs(root: Path) -> dict[int, list[Data]]:
    """Of the newest runs that were not part of another, by number: a row a figure, with its interval of four of five."""
    from gyral.plan.hindsight import hindsight

    found = {}
    for past in hindsight(root):
        rows = []
        for name, took in past.took.items():
            told = {**past.told[name].as_json(), "name": NAMES.get(name, name), "took": took}
            rows.append({**told, "off": past.off(name), "inside": past.is_inside(name)})
        found[past.run] = rows
    return found


def of_run(root: Path, run: Lineage) -> list[Data]:
    """Of one run, with the loss that a law foretold."""
    return [*_loss(root, run), *of_runs(root).get(run.run, [])]


def steps_of(root: Path, run: Lineage) -> list[Data]:
    """Of a loop that is done, what was foretold of each step in all turns; none of another run."""
    from gyral.plan.verbs.loop import hindsight

    rows = []
    for past in hindsight(root, run) if run.verb == "loop" and run.status == "done" else []:
        low, high = past.told.interval
        off, inside = past.told.value / past.took_s - 1, low <= past.took_s <= high
        rows.append({**past.told.as_json(), "name": past.name, "took": past.took_s, "off": off, "inside": inside})
    return rows


def told(value: float | None, unit: str) -> str:
    """A figure as it is read."""
    return formats.NONE if value is None else UNITS.get(unit, formats.loss)(value)


def chart(rows: Sequence[Data], title: str = "Foretold and taken") -> Markup:
    """An interval a row, from zero, with what was foretold as a dashed line and what it came to as a dot."""
    parts = []
    for index, row in enumerate(rows):
        y, ends = index * ROW_HEIGHT, [row["high"], row["value"], *([row["took"]] if row["took"] is not None else [])]
        longest = 1.05 * max(ends) or 1.0
        text = f"{told(row['took'], row['unit'])}, told {told(row['value'], row['unit'])}"
        low, high = 100 * row["low"] / longest, 100 * row["high"] / longest
        spoken = f"{row['name']}: four of five from {told(row['low'], row['unit'])} to {told(row['high'], row['unit'])}"
        parts += [charts.row_text(y, row["name"], "outside" if row["inside"] is False else "", text), charts.track(y)]
        parts.append(charts.rect(y, low, high - low, "fill-left", "interval", row["name"], row["high"] - row["low"], spoken))
        parts.append(
            Markup('<line class="floor" x1="{0:.3f}%" x2="{0:.3f}%" y1="{1}" y2="{2}"/>').format(
                100 * row["value"] / longest, y + 16, y + 34
            )
        )
        if row["took"] is not None:
            role = "one" if row["inside"] else "dropped"
            parts.append(
                Markup(
                    '<circle class="fill-{0}" cx="{1:.3f}%" cy="{2}" r="6" data-series="took" data-x="{3}" data-y="{4}"/>'
                ).format(role, 100 * row["took"] / longest, y + 25, row["name"], row["took"])
            )
    label = "; ".join(f"{row['name']} {told(row['took'], row['unit'])}" for row in rows)
    drawn = charts.drawing(len(rows) * ROW_HEIGHT, f"{title}: {label}", parts, "bars")
    return charts.figure(title, "dot: what it took; bar: four of five; dashed: the middle", drawn)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Few words for a list of runs: how many of its figures were inside of their intervals."""
    known = [row for row in rows if row["took"] is not None]
    return f"{sum(bool(row['inside']) for row in known)} of {len(known)}" if known else formats.NONE


def _loss(root: Path, run: Lineage) -> list[Data]:
    names = [each.name if "@" in each.name else f"{each.name}@{each.version}" for each in run.outputs if each.kind == "model"]
    for model in names:
        choice = read_card(root, model).training.get("budget") if exists(root, "models", model) else None
        if not isinstance(choice, dict) or not formats.is_number(choice.get("loss")):
            continue
        ends = choice.get("loss_80")
        if not isinstance(ends, list) or len(ends) != 2 or not all(map(formats.is_number, ends)):
            ends = [choice["loss"], choice["loss"]]
        low, high = ends
        ended = choice.get("ended") if formats.is_number(choice.get("ended")) else None
        name = formats.metric_name(str(choice.get("metric") or "loss"))
        why = f"{choice.get('form', 'a law')} through {choice.get('rows', 'some')} runs"
        return [
            {
                "name": name, "unit": "", "value": choice["loss"], "low": low,
                "high": high, "by": "calibrated", "why": why, "took": ended,
                "off": choice["loss"] / ended - 1 if ended else None,
                "inside": None if ended is None else low <= ended <= high,
            }
        ]  # fmt: skip
    return []
