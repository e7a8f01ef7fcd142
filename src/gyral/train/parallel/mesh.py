"""The mesh: how many ranks along which axis, read from `--parallel`, and the strategy that computes on it.

`data=2,tensor=2` are four ranks. From the outermost axis, where the least is said, to the innermost: `pipeline`, `data`,
`shard`, `context`, `expert`, `tensor`. An axis of one is none. `elastic=N` stands alone:
N members that may come and go.
"""

from __future__ import annotations

from math import prod

from gyral.errors import ConfigError, did_you_mean
from gyral.train.parallel.strategy import Alone, Strategy

AXES = ("pipeline", "data", "shard", "context", "expert", "tensor", "elastic")
BATCH_AXES = ("data", "shard")
"""Axes along which ranks have different rows."""


def parse(text: str) -> dict[str, int]:
    """Axes of more than one rank, in the order of `AXES`.

    Raises
    ------
    ConfigError : an axis nobody knows, or a number below one.
    """
    given: dict[str, int] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        axis, _, number = part.partition("=")
        if axis not in AXES:
            raise ConfigError(f"`{axis}` is no axis of a mesh", where="train.parallel", hint=did_you_mean(axis, AXES))
        if not number.isdigit() or int(number) < 1 or axis in given:
            raise ConfigError(f"`{part}` is no size of an axis", where="train.parallel", hint="write `data=2,tensor=2`")
        given[axis] = int(number)
    if "elastic" in given and len(given) > 1:
        raise ConfigError("`elastic` has no other axes beside it", where="train.parallel", hint="write `elastic=2` alone")
    return {axis: given[axis] for axis in AXES if given.get(axis, 1) > 1 or (axis == "elastic" and axis in given)}


def num_ranks(axes: dict[str, int]) -> int:
    """Ranks that a mesh has."""
    return prod(axes.values())


def strategy_of(axes: dict[str, int]) -> Strategy:
    """The strategy of a mesh; with more than one rank `torch.distributed` must have been started.

    Raises
    ------
    ConfigError : no strategy knows this combination.
    """
    if not axes:
        return Alone()
    if set(axes) == {"data"}:
        from gyral.train.parallel.data import Data

        return Data()
    raise ConfigError(f"the axes {', '.join(axes)} cannot be combined", where="train.parallel")
