"""Compressors that leave weights out of nets: heads and channels, two of every four, ranks.

| `--to` | what goes | what it gains |
|---|---|---|
| `prune-0.3` | .3 of each block's heads and channels, the rest fitted to make up for it | bytes, memory and time |
| `2:4` | two of every four weights in blocks (SparseGPT) | bytes: no operator of a processor multiplies with them |
| `2:4-wanda`, `2:4-magnitude` | the same by Wanda, and by size alone | the same |
| `rank-0.5` | singular vectors, to .5 of a matrix's numbers (by what inputs are) | bytes, memory and time |

What `prune` leaves is a smaller dense net. All are calibrated. What they cost is measured each time; measured before:
`benchmarks/compress/fewer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gyral.errors import UsageError
from gyral.model.card import Weights
from gyral.model.quant.sparse import Method

if TYPE_CHECKING:
    from gyral.model.quant.calibration import Calibration

Net = Callable[[Weights, Sequence[str], "Calibration"], Weights]


class OfNet:
    """A compressor that wants to know what layers see."""

    needs_calibration = True

    def __init__(self, make: Net) -> None:
        self._make = make

    def __call__(self, weights: Weights, matrices: Sequence[str], calibration: Calibration) -> Weights:
        return self._make(weights, matrices, calibration)


def prune(share: str) -> OfNet:
    """Without a share of heads and channels, `0` to `0.9`; with `0` the same arrays.

    Raises
    ------
    UsageError : it is no such share.
    """
    taken = share_of("prune", share, 0.0, 0.9)

    def make(weights: Weights, matrices: Sequence[str], calibration: Calibration) -> Weights:
        from gyral.model.quant.structured import pruned_net

        return pruned_net(weights, calibration, taken)

    return OfNet(make)


def rank(share: str) -> OfNet:
    """Of matrices in blocks a share of their numbers as two factors, `0.05` to `1`; with `1` the same arrays.

    Raises
    ------
    UsageError : it is no such share.
    """
    kept = share_of("rank", share, 0.05, 1.0)

    def make(weights: Weights, matrices: Sequence[str], calibration: Calibration) -> Weights:
        from gyral.model.quant.low_rank import factored_net

        return factored_net(weights, matrices, calibration, kept)

    return OfNet(make)


def share_of(name: str, text: str, least: float, most: float) -> float:
    """The number in a target's name.

    Raises
    ------
    UsageError : it is none, or out of its range.
    """
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not least <= share <= most:
        raise UsageError(f"`{name}-{text}` names no share from {least:g} to {most:g}", hint=f"write it as `{name}-0.5`")
    return share


def _two_of_four(method: Method) -> OfNet:
    def make(weights: Weights, matrices: Sequence[str], calibration: Calibration) -> Weights:
        from gyral.model.quant.sparse_fit import two_of_four_net

        return two_of_four_net(weights, matrices, calibration, method)

    return OfNet(make)


TWO_OF_FOUR = _two_of_four("sparsegpt")
TWO_OF_FOUR_WANDA = _two_of_four("wanda")
TWO_OF_FOUR_MAGNITUDE = _two_of_four("magnitude")
