"""What a training was, as a row of the run table: how large, on how much, by how many FLOPs, and where it ended.

Data is counted in the task's unit (tokens, events, images); repeated data counts once in `D_unique`. The loss is that of
what was kept aside where the task tells one, else 1 less the metric that models are compared by, for which more is better.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gyral.config import Config
from gyral.errors import GyralError
from gyral.law import runs
from gyral.law.places import runs_of
from gyral.model.card import Card
from gyral.run import Run

if TYPE_CHECKING:
    from torch import nn

EMBEDS = ("vocabulary", "logits", "table")
TAIL = 20
"""A twentieth part of the steps, at least one, is what the loss of training is a mean of."""


def measured(task: Any, model: nn.Module, steps: int, batch: int, flops: float, config: Config) -> dict[str, Any]:
    """Size, data and compute.

    Parameters
    ----------
    flops : of one step, forwards and backwards, by `task.flops`.
    """
    size = sum(each.numel() for each in model.parameters())
    embeds = {
        id(weight): weight.numel() for _, module in task.roles.named(model, *EMBEDS) for weight in module.parameters(False)
    }
    data, rows = steps * batch * task.unit_per_row, task.num_rows * task.unit_per_row
    schedule = config.train.optim.schedule
    return {
        "N": size,
        "N_non_embedding": max(1, size - sum(embeds.values())),
        "D": data,
        "D_unique": min(data, rows) if rows else data,
        "C": flops * steps,
        "unit": task.unit,
        "flops_by": "roles",
        "schedule": "constant" if schedule == "constant" else "finished",
        "lr": config.train.optim.rate,
        "batch": batch * task.unit_per_row,
        "precision": config.train.precision,
    }


def keep(root: Path, card: Card, config: Config, run: Run) -> None:
    """Add the training of a model to the project's table of runs; it needs the sizes that `measured` found."""
    found = card.training.get("scale")
    if not found:
        return
    chosen = next(each for each in card.candidates if each["chosen"])
    value = card.training.get("metrics", {}).get("loss")
    metric = "loss" if value else f"1 - {card.metric}"
    value = value or 1 - chosen[card.metric]
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
