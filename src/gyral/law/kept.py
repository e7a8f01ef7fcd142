"""What a project's laws say, written once for pages that only read: `laws/laws.json`.

Of each group of runs: the runs, what the law says of each, the fan beyond them, budgets through which a bowl is drawn, what
would be trained with three, ten and a hundred times the most, and the reasons not to believe it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gyral.errors import InputError
from gyral.files import write_atomic
from gyral.law import intervals
from gyral.law.allocate import Budget, allocate
from gyral.law.choose import Law
from gyral.law.methods import minima
from gyral.law.sweep import budgets

TIMES = (3.0, 10.0, 100.0)
FAN_POINTS, FAN_BEYOND, MOST_POINTS, MOST_BOWLS = 25, 100.0, 400, 8


def chart_of(law: Law, num: int = 400) -> dict[str, Any]:
    """Numbers of the charts of one law."""
    table = law.table
    told = law.predict({name: table.read_by((name,))[name] for name in law.axes})
    keep = np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST_POINTS)).astype(int))
    axis = table.axis()
    runs = [
        {
            "run": str(table.run[i]), "x": float(axis[i]), "loss": float(table.loss[i]), "told": float(told[i]),
            **{name: float(table.columns[name][i]) for name in ("N", "D") if name in table.columns},
        }
        for i in keep
    ]  # fmt: skip
    found: dict[str, Any] = {"runs": runs, "fan": _fan(law, num), "bowls": [], "allocations": []}
    if {"N", "D"} <= set(law.axes):
        found["bowls"] = _bowls(law)
        for times in TIMES:
            try:
                each = allocate(law, Budget(float(axis.max()) * times), num=num)
            except InputError:
                continue
            found["allocations"].append({"flops": float(axis.max()) * times, **each.as_json()})
    return found


def _fan(law: Law, num: int) -> list[dict[str, float]]:
    """The best loss for a budget, and where four of five such runs end, to a hundred times the most."""
    axis = law.table.axis()
    points = []
    for flops in np.geomspace(float(axis.min()), float(axis.max()) * FAN_BEYOND, FAN_POINTS):
        if {"N", "D"} <= set(law.axes):
            try:
                best = allocate(law, Budget(float(flops)), num=8)
            except InputError:
                continue
            asked = {"N": np.array([best.N]), "D": np.array([best.D])}
            if "D_unique" in law.axes:
                asked["D_unique"] = asked["D"]
        elif law.axes == ("x",):
            asked = {"C": np.array([flops])}
        else:
            return []
        low, high = intervals.percentiles(law.sample(asked, num)[:, 0], 0.8)
        points.append({"x": float(flops), "loss": float(law.predict(asked)[0]), "low": low, "high": high})
    return points


def _bowls(law: Law) -> list[dict[str, Any]]:
    table = law.table
    groups = [rows for rows in budgets(table) if len(set(table.columns["N"][rows].tolist())) >= 3]
    lowest = {round(np.log10(each.C), 6): each for each in minima(table)}
    found = []
    for rows in groups[-MOST_BOWLS:]:
        order = rows[np.argsort(table.columns["N"][rows])]
        flops = float(np.median(table.axis()[rows]))
        least = lowest.get(round(np.log10(flops), 6))
        points = [{"N": float(table.columns["N"][i]), "loss": float(table.loss[i])} for i in order]
        found.append({"flops": flops, "points": points, "minimum": least._asdict() if least is not None else None})
    return found


def write(path: Path, groups: list[dict[str, Any]]) -> None:
    """Keep them for the pages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode({"groups": groups}))
