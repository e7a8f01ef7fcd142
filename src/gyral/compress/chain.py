"""One target or several joined by `+`, each of what the one before it made: `prune-0.3+int8`.

What takes weights away comes before what rounds them: nothing is rounded twice, and zeros and smaller shapes stay through
rounding.
"""

from __future__ import annotations

from gyral import plugins
from gyral.errors import UsageError
from gyral.model.card import Weights
from gyral.model.family import Family, Twin
from gyral.model.quant import packing, sparse


def parts_of(to: str) -> list[str]:
    """Targets in their order.

    Raises
    ------
    UsageError : one is not known.
    """
    found = to.split("+")
    for each in found:
        plugins.check("compressor", each)
        if each.endswith("*"):
            raise UsageError(
                f"`{each}` stands for a family of targets", hint=f"write a number: `{each[:-1]}0.3`, `{each[:-1]}8`"
            )
    return found


def folder_part(to: str) -> str:
    """What a target is called in the name of a model: `:` is not for names of files."""
    return to.replace(":", "of")


def shrunk(to: str, twin: Twin, weights: Weights, family: Family) -> Weights:
    """Weights by one compressor after the other, told what layers see where they want to know.

    Raises
    ------
    UsageError : one needs a net and there is none, or comes after one that rounds.
    """
    for name in parts_of(to):
        shrink = plugins.find("compressor", name)
        if _is_rounded(weights):
            hint = f"put `{name}` first, as in `{name}+int8`" if name != to.split("+")[0] else ""
            raise UsageError(f"`{name}` comes after what rounds weights", why="they are in few bits already", hint=hint)
        matrices = packing.chosen(weights, family.matrices)
        if not getattr(shrink, "needs_calibration", False):
            weights = shrink(weights, matrices)
        elif hasattr(twin, "calibration"):
            weights = shrink(weights, matrices, twin.calibration())
        else:
            raise UsageError(f"a {family.name} has no net that could be calibrated", hint="`--to int8`, or `--to rows-int4`")
    return sparse.stored(weights)


def finished(twin: Twin, weights: Weights) -> Weights:
    """As it is published: with what the family makes of its data by the model itself."""
    finish = getattr(twin, "finish", None)
    made: Weights = finish(weights) if finish is not None else weights
    return made


def _is_rounded(weights: Weights) -> bool:
    return any(weights.settings.get(key) for key in ("packed", "bits", "tables"))
