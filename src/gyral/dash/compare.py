"""Two runs → what they had in common and what not: settings, results, and their curves over each other."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gyral.dash import charts, foretold, formats
from gyral.dash.charts import Series
from gyral.dash.curves import curves
from gyral.dash.headline import headline
from gyral.dash.records import NUMBER, UNRECORDED, read_lines, read_run, read_runs, read_text, read_turns
from gyral.errors import NotFound
from gyral.run import Lineage

Data = dict[str, Any]
SIDES = ("a", "b")


def page(root: Path, query: Mapping[str, str]) -> Data:
    """Both runs and their differences. Where `a` and `b` are not said: the newest two of the verb that ran last more than once.

    Raises
    ------
    NotFound : a run that was asked for is not there, or there are no two of a verb yet.
    """
    found, _ = read_runs(root)
    known = {run.run: run for run in found if run.status != UNRECORDED}
    asked = [query.get(side, "") for side in SIDES]
    chosen = [_asked(root, text) for text in asked] if any(asked) else _newest_two(list(known.values()))
    sides = [_side(root, run) for run in chosen]
    first, second = sides
    return {
        **{
            name: {key: value for key, value in side.items() if key != "config"}
            for name, side in zip(SIDES, sides, strict=True)
        },
        "settings": differences(_flat(first["config"]), _flat(second["config"])),
        "results": differences(_numbers(first["summary"]), _numbers(second["summary"]), keep_equal=True),
        "runs": [{"run": run.run, "verb": run.verb} for run in known.values()],
        "running": False,
    }


def differences(left: Mapping[str, Any], right: Mapping[str, Any], keep_equal: bool = False) -> list[Data]:
    """What differs, by name; None on a side that does not have it."""
    rows = []
    for name in sorted({*left, *right}):
        a, b = left.get(name), right.get(name)
        if keep_equal or a != b:
            is_rated = isinstance(a, int | float) and isinstance(b, int | float) and not isinstance(a, bool) and a
            rows.append({"name": name, "a": a, "b": b, "change": b / a - 1 if is_rated and a and b is not None else None})
    return rows


def compared_charts(first: Data, second: Data) -> list[Markup]:
    """The curves that both have, over each other: of turns the model's quality, of a training its losses."""
    labels = [f"#{each['run']}" for each in (first, second)]
    drawn = []
    for field, title, x_label, style in (
        ("turns", "Quality, turn by turn", "turn", formats.metric),
        ("loss", "Loss", "step", formats.loss),
        ("held_out", "Loss on what was held out", "step", formats.loss),
    ):
        if first[field] and second[field]:
            series = [
                Series(label, [(x, y) for x, y in each[field]], role)
                for label, each, role in zip(labels, (first, second), ("one", "frozen"), strict=True)
            ]
            drawn.append(
                charts.line_chart(
                    series, title=title, x_label=x_label, x_format=formats.count, y_format=style, from_zero=field == "turns"
                )
            )
    return drawn


def _asked(root: Path, text: str) -> Lineage:
    run = read_run(root, int(text)) if NUMBER.fullmatch(text) else None
    if run is None or run.status == UNRECORDED:
        raise NotFound("there is no such run to compare", hint="see all runs")
    return run


def _newest_two(found: list[Lineage]) -> list[Lineage]:
    for run in found:
        alike = [each for each in found if each.verb == run.verb]
        if len(alike) > 1:
            return alike[:2][::-1]
    raise NotFound("there are no two runs of one verb to compare yet", hint="gyral loop --source FILE")


def _side(root: Path, run: Lineage) -> Data:
    lines = read_lines(root, run.run)
    trained = curves(lines) or {"loss": [], "held_out": []}
    turns = read_turns(lines, run.summary)
    record = {name: getattr(run, name) for name in ("elapsed_s", "cpu_s", "peak_bytes")}
    return {
        "run": run.run,
        "verb": run.verb,
        "status": run.status,
        "started": run.started,
        "headline": headline(run.verb, run.summary),
        "summary": {**record, **{key: value for key, value in run.summary.items() if key not in ("turns", *record)}},
        "foretold": foretold.of_run(root, run),
        "config": read_text(root, run.run, "config.toml"),
        "turns": [[turn.turn, turn.scores.get("looped")] for turn in turns],
        "loss": trained["loss"],
        "held_out": trained["held_out"],
    }


def _flat(text: str) -> dict[str, Any]:
    """Settings by their whole name, `train.seed`; none of a file that is damaged."""
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
    flat: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", told)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}" if name else key, each) for key, each in value.items()]
        else:
            flat[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
