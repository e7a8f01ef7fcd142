"""What a training was, as a row of the run table: how large, on how much, by how many FLOPs, and where it ended.

Data is counted in the task's unit (tokens, events, images); repeated data counts once in `D_unique`. The loss is that of
what was kept aside where the task tells one, else 1 less the metric that models are compared by, for which more is better.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gyral.config import Config, changed
from gyral.errors import GyralError
from gyral.law import runs
from gyral.law.places import runs_of
from gyral.model.card import Card
from gyral.run import Run
from gyral.train.resume import learned
from gyral.train.shapes import SETTINGS

if TYPE_CHECKING:
    from torch import nn

EMBEDS = ("vocabulary", "logits", "table")
OF_A_RUN = ("train.budget", "train.steps", "train.seed")
TAIL = 20
"""A twentieth part of the steps, at least one, is what the loss of training is a mean of."""


def trained_as(config: Config) -> dict[str, Any]:
    """Columns that runs of one law share: rate, schedule, precision, and a digest of all other settings that change what is
    learned and are not at their default, but for sizes, steps, budget and seed."""
    unlike = changed(config)
    kept = {key: value for key, value in learned(config).items() if key in unlike and key not in (*SETTINGS, *OF_A_RUN)}
    digest = hashlib.sha256(msgspec.json.encode(kept, order="deterministic")).hexdigest()
    return {
        "lr": config.train.optim.rate,
        "schedule": "constant" if config.train.optim.schedule == "constant" else "finished",
        "precision": config.train.precision,
        "settings": digest[:12],
    }


def parameters(task: Any, model: nn.Module) -> tuple[int, int]:
    """Parameters of a model: all, and without embeddings."""
    size = sum(each.numel() for each in model.parameters())
    embeds = {
        id(weight): weight.numel() for _, module in task.roles.named(model, *EMBEDS) for weight in module.parameters(False)
    }
    return size, max(1, size - sum(embeds.values()))


def measured(task: Any, model: nn.Module, steps: int, batch: int, flops: float, config: Config) -> dict[str, Any]:
    """Size, data and compute.

    Parameters
    ----------
    flops : of one step, forwards and backwards, by `task.flops`.
    """
    size, without = parameters(task, model)
    data, rows = steps * batch * task.unit_per_row, task.num_rows * task.unit_per_row
    return {
        "N": size,
        "N_non_embedding": without,
        "D": data,
        "D_unique": min(data, rows) if rows else data,
        "C": flops * steps,
        "unit": task.unit,
        "flops_by": "roles",
        "batch": batch * task.unit_per_row,
        **trained_as(config),
    }


def ended(metrics: Mapping[str, float], metric: str) -> tuple[float, str]:
    """What a training ended with, and of what: the loss of what was kept aside, else 1 less the metric of models."""
    loss = metrics.get("loss")
    return (loss, "loss") if loss else (1 - metrics[metric], f"1 - {metric}")


def keep(root: Path, card: Card, config: Config, run: Run) -> None:
    """Add the training of a model to the project's table of runs; it needs the sizes that `measured` found."""
    found = card.training.get("scale")
    if not found:
        return
    chosen = next(each for each in card.candidates if each["chosen"])
    value, metric = ended(chosen | card.training.get("metrics", {}), card.metric)
    losses = card.training.get("loss") or []
    tail = losses[-max(1, len(losses) // TAIL) :]
    if not value > 0:
        return run.note(f"law      a loss of {value:g} says nothing of scale; it is not in the table of runs")
    row = {
        "run": card.model,
        "group": f"{card.family}/{config.train.task or 'default'} {card.dataset}",
        "family": card.family,
        **found,
        "loss": value,
        "metric": metric,
        "train_loss": sum(tail) / len(tail) if tail else None,
        "seed": config.train.seed,
    }
    try:
        runs.append(runs_of(root), [row])
    except GyralError as error:  # the model is there, whatever has become of the table
        run.note(f"law      this run is not in the table of runs: {error.what}")
