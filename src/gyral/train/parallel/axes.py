"""Axes of a mesh and their sizes, read from `--parallel`; without torch, so that a misspelt axis is told by every trainer."""

from __future__ import annotations

from gyral.errors import ConfigError, did_you_mean

AXES = ("pipeline", "data", "shard", "context", "expert", "tensor", "elastic")
BATCH_AXES = ("data", "shard", "expert")
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
