"""A run's `metrics.jsonl` → TensorBoard or MLflow: one function, so that training itself knows neither.

`gyral show 7 --export tensorboard:DIR` after or during a run; doing it again replaces what was there of TensorBoard and adds a
run to MLflow. Every number of the lines of type `step` and `held_out` becomes a scalar of its step: `train/loss`,
`held_out/loss`, …
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gyral.errors import NotFound, UsageError
from gyral.run import read_lineage, read_metrics

KINDS = {"step": "train", "held_out": "held_out"}
PLACES = ("tensorboard", "mlflow")
AT_ONCE = 1000
"""Metrics that MLflow takes in one call."""


class Scalar(NamedTuple):
    """One number of one step; `time` in seconds since 1970."""

    name: str
    value: float
    step: int
    time: float


def export(root: Path, run: int, place: str) -> int:
    """Write a run's scalars to `tensorboard:DIR` or `mlflow:DIR`; how many.

    Raises
    ------
    UsageError : another place.  NotFound : no such run, or it has no steps.
    """
    kind, _, folder = place.partition(":")
    if kind not in PLACES or not folder:
        hint = f"gyral show {run} --export tensorboard:DIR, or mlflow:DIR"
        raise UsageError(f"a run cannot be exported to `{place}`", hint=hint)
    lineage = read_lineage(root, run)
    found = list(scalars(read_metrics(root, run)))
    if not found:
        raise NotFound(f"run {run} has no steps", hint="only training by gradients has")
    target = Path(folder).absolute()
    if kind == "tensorboard":
        _to_tensorboard(target / f"run-{run}", found)
    else:
        _to_mlflow(target, f"run-{run}", lineage.command, found)
    return len(found)


def scalars(lines: list[dict[str, Any]]) -> Iterator[Scalar]:
    """Every finite number of the steps and evaluations."""
    for line in lines:
        if (group := KINDS.get(line.get("type", ""))) and isinstance(line.get("step"), int):
            for name, value in line.items():
                is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                if is_number and name not in ("time", "type", "step"):
                    yield Scalar(f"{group}/{name}", float(value), line["step"], float(line["time"]))


def _to_tensorboard(folder: Path, found: list[Scalar]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = EventFileWriter(str(folder))
    for each in found:
        value = Summary.Value(tag=each.name, simple_value=each.value)
        writer.add_event(Event(wall_time=each.time, step=each.step, summary=Summary(value=[value])))
    writer.close()


def _to_mlflow(folder: Path, name: str, command: str, found: list[Scalar]) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a database would need the whole of mlflow
    client = MlflowClient(folder.as_uri())
    known = client.get_experiment_by_name("gyral")
    experiment = known.experiment_id if known else client.create_experiment("gyral")
    run = client.create_run(experiment, start_time=int(1000 * found[0].time), run_name=name).info.run_id
    client.log_batch(run, params=[Param("command", command or "gyral")])
    metrics = [Metric(each.name, each.value, int(1000 * each.time), each.step) for each in found]
    for start in range(0, len(metrics), AT_ONCE):
        client.log_batch(run, metrics=metrics[start : start + AT_ONCE])
    client.set_terminated(run, end_time=int(1000 * found[-1].time))
