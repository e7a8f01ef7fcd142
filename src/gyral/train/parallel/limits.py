"""What a machine and a model allow, told before ranks are started: refused with numbers where memory does not last.

A rank's share, with P parameters of 4 bytes: weights, gradients and the optimizer's two means are 16 P, divided by what
splits them (`sharding = "states"` divides the means only). A table costs 16 a number too, and 4 by rowwise Adagrad, divided by
the ranks it is spread over. Activations are taken as what every multiplied matrix is given and
gives, 4 bytes a number, for the rows that are computed at once; recomputed blocks hold theirs one at a time.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path

from torch import nn

from gyral.config.training import Train
from gyral.engine.base import num_cores
from gyral.errors import ConfigError
from gyral.model.roles import MULTIPLIED, Roles, own
from gyral.model.task import Task
from gyral.train.parallel.expert import mixtures
from gyral.train.parallel.mesh import num_parts, num_ranks, refuse_batch_norm
from gyral.train.parallel.stages import owned_stages, stages_of
from gyral.train.parallel.tensor import refuse_uneven

BYTES = 4
SHARE = 0.95
"""Of the free memory that ranks may ask for."""


def check(task: Task, model: nn.Module, axes: dict[str, int], train: Train) -> list[str]:
    """Notes for a person, before ranks of this machine are started.

    Raises
    ------
    ConfigError : they need more memory than is free, or an axis does not divide the model.
    """
    refuse_uneven(model, task.roles, axes.get("tensor", 1))
    if "expert" in axes:
        mixtures(model, axes["expert"])
    if "pipeline" in axes:
        stages_of(model, task.roles, axes["pipeline"] * len(owned_stages(train.schedule, 0, axes["pipeline"])))
    if num_parts(axes) > 1:
        refuse_batch_norm(model)
    ranks, cores = num_ranks(axes), num_cores()
    kept, passing = states_bytes(model, axes, train, task.roles), activation_bytes(task, model, axes, train)
    free = free_bytes()
    if free is not None and ranks * (kept + passing) > SHARE * free:
        raise ConfigError(
            f"{ranks} ranks need about {gib(ranks * (kept + passing))}, and {gib(free)} are free",
            where="train.parallel",
            why=f"each holds {gib(kept)} of weights, gradients and optimizer, and {gib(passing)} of activations",
            hint="a larger axis `shard`, a smaller `train.microbatch`, `--set train.recompute=true`, or fewer ranks",
        )
    return [f"{ranks} ranks share {cores} cores: they take turns"] if ranks > cores else []


def states_bytes(model: nn.Module, axes: dict[str, int], train: Train, roles: Roles | None = None) -> int:
    """Weights, gradients and the optimizer's means of one rank."""
    of_tables = num_in_tables(model, roles or Roles())
    num = (sum(param.numel() for param in model.parameters()) - of_tables) / (axes.get("tensor", 1) * axes.get("pipeline", 1))
    shards = axes.get("shard", 1)
    by_weight = shards if train.sharding == "weights" else 1
    found = 2 * BYTES * num / by_weight + 2 * BYTES * num / shards
    is_spread = train.tables != "replicate"
    if train.optim.tables == "rowwise_adagrad":
        kept = 1 if is_spread or set(axes) <= {"data"} else 2  # numbers a cell: weights, and a gradient where it is of all rows
        return ceil(found + kept * BYTES * of_tables / (axes.get("data", 1) * shards if is_spread else by_weight))
    if is_spread:
        return ceil(found + 4 * BYTES * of_tables / (axes.get("data", 1) * shards))
    return ceil(found + 2 * BYTES * of_tables / by_weight + 2 * BYTES * of_tables / shards)


def num_in_tables(model: nn.Module, roles: Roles) -> int:
    """Numbers in embedding tables."""
    return sum(param.numel() for _, module in roles.named(model, "table") for param in own(module))


def activation_bytes(task: Task, model: nn.Module, axes: dict[str, int], train: Train) -> int:
    """What one rank keeps for the backward pass."""
    most = -(-train.batch // num_parts(axes))
    rows = min(train.microbatch or most, most)
    matrices = [module for _, module in task.roles.named(model, *MULTIPLIED) if isinstance(module, nn.Linear)]
    positions = task.flops(model) / (6 * max(1, task.roles.num_multiplied(model)))
    width = sum(module.in_features + module.out_features for module in matrices)
    blocks = max(1, len(task.roles.units(model))) if train.recompute else 1
    return ceil(rows * positions * width * BYTES / blocks / axes.get("pipeline", 1) / axes.get("context", 1))


def free_bytes() -> int | None:
    """Memory that can be had without swapping, by this machine and by this process's control group; None: unknown."""
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        found.append(int(limit[0]) - int(used[0]))
    return min(found, default=None)


def gib(size_bytes: float) -> str:
    """A size as a person reads it."""
    return f"{size_bytes / 2**30:,.1f} GiB"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
