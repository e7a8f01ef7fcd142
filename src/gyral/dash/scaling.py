"""A project's laws → the data of the page of scaling and its charts, from `laws/laws.json` and the register of predictions.

Nothing is fitted here: `gyral law fit` does that, and pages only read. Axes of sizes and compute are logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup

from gyral.dash import charts
from gyral.dash.charts import Series
from gyral.errors import GyralError
from gyral.law import register
from gyral.law.places import laws_of, register_of

Data = dict[str, Any]


def page(root: Path) -> Data:
    """Laws and predictions of a project; empty where nothing was fitted or predicted."""
    path = laws_of(root)
    groups = msgspec.json.decode(path.read_bytes())["groups"] if path.exists() else []
    try:
        entries, damage = register.read(register_of(root)), ""
    except GyralError as error:
        entries, damage = [], f"{error.what} ({error.where}): {error.why}"
    return {"groups": groups, "predictions": predictions(entries), "score": register.score_of(entries), "damage": damage}


def predictions(entries: Sequence[Data]) -> list[Data]:
    """Each prediction with its verdict, the newest first."""
    verdicts = {each["name"]: each for each in entries if each["kind"] == "verdict"}
    found = []
    for each in entries:
        if each["kind"] == "prediction":
            low, high = each["intervals"]["0.8"]
            came = verdicts.get(each["name"])
            found.append(
                {
                    "name": each["name"], "target": each["target"], "point": each["point"], "low": low, "high": high,
                    "value": came["value"] if came else None, "error": came["error"] if came else None,
                    "inside": came["inside"]["0.8"] if came else None, "time": each["time"], "hash": each["hash"][:12],
                }
            )  # fmt: skip
    return found[::-1]


def compute_chart(group: Data) -> Markup:
    """Runs, the best for each budget, and where four of five runs beyond them end."""
    fan = group.get("fan") or []
    seen = sorted((math.log10(each["x"]), each["loss"]) for each in group["runs"])
    series = [
        Series("runs", seen, "seen"),
        Series("law, at the best size", [(math.log10(each["x"]), each["loss"]) for each in fan], "one"),
        Series("80 %, from", [(math.log10(each["x"]), each["low"]) for each in fan], "edge"),
        Series("80 %, to", [(math.log10(each["x"]), each["high"]) for each in fan], "edge"),
    ]
    return charts.line_chart(
        [each for each in series if each.points], title="Loss and compute", x_label="FLOP", y_label="loss", x_format=power,
        y_format=_loss, from_zero=False, ends=False,
    )  # fmt: skip


def bowl_chart(group: Data) -> Markup:
    """Loss against size for each budget that has three sizes."""
    roles = ("one", "two", "three", "four")
    series = [
        Series(
            f"{short(bowl['flops'], 2)} FLOP", [(math.log10(each["N"]), each["loss"]) for each in bowl["points"]], roles[i % 4]
        )
        for i, bowl in enumerate(group["bowls"])
    ]
    title = "Loss and size, budget by budget" if len(series) > 1 else f"Loss and size, {series[0].name}"
    return charts.line_chart(
        series, title=title, x_label="parameters", y_label="loss", x_format=power, y_format=_loss, from_zero=False, ends=False,
    )  # fmt: skip


def told_chart(group: Data) -> Markup:
    """What the law says of each run against what it ended with; a right law lies on the line."""
    pairs = sorted((each["told"], each["loss"]) for each in group["runs"])
    ends = [pairs[0][0], pairs[-1][0]]
    series = [Series("runs", pairs, "seen"), Series("as told", [(x, x) for x in ends], "edge")]
    return charts.line_chart(
        series, title="Told and ended with", x_label="told by the law", y_label="ended with", x_format=_loss, y_format=_loss,
        from_zero=False, ends=False,
    )  # fmt: skip


def power(log: float) -> str:
    """10^log as it is read: `3e18`."""
    return f"{10**log:.1e}".replace(".0e", "e").replace("e+", "e")


def short(value: float, digits: int = 3) -> str:
    """A count or a constant with some digits, large ones by a power of ten: `5.76e4`, `0.217`."""
    return f"{value:.{digits}g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("-", "−")


def _loss(value: float) -> str:
    return f"{value:.4g}"
