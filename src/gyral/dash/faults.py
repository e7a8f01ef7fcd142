"""A soak → the data of its page and its charts, from its run: lines of `metrics.jsonl`, `faults.jsonl`, and its summary.

All drawings share their seconds: the timeline of faults, rates, latency, and what each kind of process holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup

from gyral.dash import charts, formats
from gyral.dash.charts import Series
from gyral.dash.records import heading, newest, read_text, thinned

FILE = "faults.jsonl"
ROLES = ("one", "two", "three", "four", "popularity")
"""Looks of the lines of processes, in their order."""
Data = dict[str, Any]


def page(root: Path) -> Data:
    """The newest soak.

    Raises
    ------
    NotFound : there is none.
    """
    run, told = newest(root, "bench", of_lines, "no soak has run here", hint="python benchmarks/loop/soak.py --folder FOLDER")
    faults = [each for line in read_text(root, run.run, FILE).splitlines() if (each := _fault(line)) is not None]
    summary = run.summary
    return {
        **heading(run),
        "soak": told,
        "faults": faults,
        "promises": _rows(summary.get("promises")),
        "violations": _rows(summary.get("violations")),
        "recovery": summary.get("recovery") or {},
    }


def of_lines(lines: Sequence[Mapping[str, Any]]) -> Data | None:
    """What a run's lines say; None where none is of a soak. Lists stop at 240 points, evenly spaced, with the last."""
    rows = [line for line in lines if line.get("type") == "soak" and formats.is_number(line.get("t"))]
    if not rows:
        return None
    names = ("t", "answered_per_s", "stored_per_s", "not_answered_per_s", "p99_ms", "rss_bytes", "files")
    points = [{name: row.get(name) for name in names} for row in thinned(rows)]
    return {"num_points": len(rows), "seconds": rows[-1]["t"], "points": points}


def timeline(page: Data) -> Markup:
    """Each fault from its beginning until all was well again, a row for each kind, over the seconds of the soak."""
    whole = max(page["soak"]["seconds"] or 0, *(each["until"] for each in page["faults"]), 1.0) if page["faults"] else 1.0
    kinds = list(dict.fromkeys(each["kind"] for each in page["faults"]))
    parts = []
    for row, kind in enumerate(kinds):
        mine = [each for each in page["faults"] if each["kind"] == kind]
        y = row * charts.ROW_HEIGHT
        well = [each["recovered_s"] for each in mine if each["recovered_s"] is not None]
        text = f"well after {max(well):.2f} s at most" if len(well) == len(mine) else "not well within a minute"
        parts += [charts.row_text(y, kind, "", text), charts.track(y)]
        for each in mine:
            start, width = 100 * each["at"] / whole, max(100 * (each["until"] - each["at"]) / whole, 0.4)
            role = "fill-dropped" if each["recovered_s"] is None else "fill-one"
            told = f"{kind} at {each['at']:g} s {each['note']}"
            parts.append(charts.rect(y, start, width, role, kind, str(each["at"]), each["recovered_s"], told))
    label = "; ".join(kinds) or "none"
    drawn = charts.drawing(max(len(kinds), 1) * charts.ROW_HEIGHT, f"Faults over {whole:.0f} seconds: {label}", parts, "bars")
    return charts.figure("Faults", f"from each until all was well again, over {whole:,.0f} s", drawn)


def pace_charts(soak: Data) -> list[Markup]:
    """Rates, latency, memory and open files, over the same seconds."""
    points = soak["points"]
    rates = [
        Series(name, [(each["t"], each[field]) for each in points], role)
        for name, field, role in (
            ("answered", "answered_per_s", "one"),
            ("stored", "stored_per_s", "two"),
            ("not answered", "not_answered_per_s", "four"),
        )
    ]  # fmt: skip
    p99 = [Series("p99", [(each["t"], each["p99_ms"]) for each in points])]
    common: dict[str, Any] = {"x_label": "seconds", "x_format": "{:g}".format, "ends": False}
    held = [
        charts.line_chart(_of_roles(points, field), title=title, y_format=style, y_tick=tick, **common)
        for field, title, style, tick in (
            ("rss_bytes", "Memory", formats.size, formats.size_tick),
            ("files", "Open files", formats.compact, formats.compact),
        )
    ]
    return [
        charts.line_chart(rates, title="Requests a second", y_format=formats.compact, **common),
        charts.line_chart(p99, title="p99 latency", y_label="of a second", y_format=formats.ms_tick, **common),
        *held,
    ]  # fmt: skip


def _of_roles(points: Sequence[Data], field: str) -> list[Series]:
    names = list(dict.fromkeys(name for each in points for name in each[field] or {}))
    return [
        Series(name, [(each["t"], (each[field] or {}).get(name) or None) for each in points], ROLES[at % len(ROLES)])
        for at, name in enumerate(names)
    ]


def _fault(line: str) -> Data | None:
    """A line that says when what began; None for one that is torn."""
    try:
        told = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    if not isinstance(told, dict) or not formats.is_number(told.get("at")) or not isinstance(told.get("kind"), str):
        return None
    well = told.get("recovered_s") if formats.is_number(told.get("recovered_s")) else None
    harmed = told.get("harmed_s") if formats.is_number(told.get("harmed_s")) else 0.0
    note = str(told.get("note") or "")
    return {
        "at": told["at"], "kind": told["kind"], "target": str(told.get("target") or ""), "harmed_s": harmed,
        "recovered_s": well, "until": told["at"] + harmed + (60.0 if well is None else well), "note": note,
    }  # fmt: skip


def _rows(value: Any) -> list[Data]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
