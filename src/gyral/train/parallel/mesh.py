"""The mesh: how many ranks along which axis, read from `--parallel`, and the strategy that computes on it.

`data=2,tensor=2` are four ranks. From the outermost axis, where the least is said, to the innermost: `pipeline`, `data`,
`shard`, `context`, `expert`, `tensor`. An axis of one is none. `elastic=N` stands alone:
N members that may come and go.
"""

from __future__ import annotations

from functools import partial
from math import prod

import torch.distributed as dist
from torch import nn

from gyral.config.training import Train
from gyral.errors import ConfigError
from gyral.train import device
from gyral.train.parallel.axes import BATCH_AXES as BATCH_AXES
from gyral.train.parallel.axes import parse as parse
from gyral.train.parallel.strategy import Alone, Strategy


def num_ranks(axes: dict[str, int]) -> int:
    """Ranks that a mesh has."""
    return prod(axes.values())


def num_parts(axes: dict[str, int]) -> int:
    """Parts a batch is cut in."""
    return prod(size for axis, size in axes.items() if axis in (*BATCH_AXES, "elastic"))


def strategy_of(axes: dict[str, int], train: Train | None = None) -> Strategy:
    """The strategy of a mesh; with more than one rank `torch.distributed` must have been started.

    Raises
    ------
    ConfigError : no strategy knows this combination, or another number of ranks was started.
    """
    train = train or Train()
    if axes and (started := dist.get_world_size()) != (ranks := num_ranks(axes)):
        words = ",".join(f"{axis}={size}" for axis, size in axes.items())
        what = f"`{words}` is a mesh of {ranks} ranks, but {started} were started"
        raise ConfigError(what, where="train.parallel", hint=f"start {ranks}, or another mesh of {started}")
    for setting, is_on in (("outer.every", train.outer.every > 0), ("wire", train.wire != "f32")):
        if is_on and axes and (set(axes) != {"data"} or train.tables != "replicate"):
            hint = "`--parallel data=N` alone, with `train.tables` replicated"
            raise ConfigError(f"`train.{setting}` is of ranks that have the whole model", where="train.parallel", hint=hint)
    strategy: Alone
    if not axes:
        strategy = Alone()
    elif "pipeline" in axes:
        from gyral.train.parallel.pipeline import Pipeline

        strategy = Pipeline(axes, train)
    elif set(axes) == {"data"} and train.tables == "replicate":
        from gyral.train.parallel.data import Data
        from gyral.train.parallel.local_sgd import LocalSgd

        strategy = LocalSgd(train.outer) if train.outer.every else Data(wire=train.wire)
    else:
        from gyral.train.parallel.meshed import Meshed, placers

        if unknown := [axis for axis in axes if axis != "data" and axis not in placers()]:
            raise ConfigError(f"no strategy knows the axis {', '.join(unknown)}", where="train.parallel")
        strategy = Meshed(axes, train)
    strategy.autocast = partial(device.autocast, train.precision)
    strategy.follows_rows = train.optim.tables == "rowwise_adagrad"
    return strategy


def refuse_batch_norm(model: nn.Module) -> None:
    """Raise where rows of other ranks would change what a layer gives.

    Raises
    ------
    ConfigError : a layer takes means over the rows it sees.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"`{name}` is a {type(module).__name__}: its result depends on how a batch is split over ranks",
                where="train.parallel",
                hint="use LayerNorm, RMSNorm or GroupNorm, or train with one rank",
            )
