"""A training run's steps → the curves of its page: loss, rate, gradient norm and time of a step, thinned to what can be seen.

A curve of more than 240 steps is cut into 240 runs of steps and each drawn as its mean, because every n-th value of a noisy
curve shows the noise of that step; what is not finite is left out and counted. Times are drawn as the median of such a run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gyral.dash import formats

MAX_POINTS = 240
CURVES = (("loss", statistics.fmean), ("rate", statistics.fmean), ("norm", statistics.fmean), ("seconds", statistics.median))

Data = dict[str, Any]
Row = Mapping[str, Any]


def curves(lines: Sequence[Row]) -> Data | None:
    """Gather the curves of the lines of type `step` and `held_out`; None when there are none.

    A step that stands there twice (a resumed run did it again) counts as it was last.
    """
    steps = {row["step"]: row for row in lines if row.get("type") == "step" and formats.is_number(row.get("step"))}
    held_out = {row["step"]: row for row in lines if row.get("type") == "held_out" and formats.is_number(row.get("step"))}
    if not steps:
        return None
    ordered = [steps[step] for step in sorted(steps)]
    evaluated = [held_out[step] for step in sorted(held_out)]
    left_out = [row for row in ordered if row.get("skipped")]
    best = [row["step"] for row in evaluated if row.get("is_best")]
    return {
        "num_steps": len(ordered),
        "every": -(-len(ordered) // MAX_POINTS),
        **{name: thinned([(row["step"], row.get(name)) for row in ordered], mean) for name, mean in CURVES},
        "held_out": thinned([(row["step"], row.get("loss")) for row in evaluated], statistics.fmean),
        "held_out_metrics": {name: value for name, value in evaluated[-1].items() if _is_metric(name)} if evaluated else {},
        "best_step": best[-1] if best else None,
        "num_left_out": len(left_out),
        "went_back": [[row["step"], row["back"]] for row in left_out if formats.is_number(row.get("back"))],
    }


def thinned(points: Sequence[tuple[float, Any]], mean: Callable[[Sequence[float]], float]) -> list[list[float]]:
    """At most `MAX_POINTS` of (step, value), each standing for as many steps; of its steps the last is told."""
    known = [(step, float(value)) for step, value in points if formats.is_number(value) and math.isfinite(value)]
    every = -(-len(known) // MAX_POINTS) or 1
    parts = [known[start : start + every] for start in range(0, len(known), every)]
    return [[part[-1][0], mean([value for _, value in part])] for part in parts]


def _is_metric(name: str) -> bool:
    return name not in ("time", "type", "step", "is_best")
