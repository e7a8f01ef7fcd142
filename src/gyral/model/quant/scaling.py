"""Columns of a matrix made larger and what comes before them smaller: the net is the same, its rounding is not.

What comes before is a norm's gain (and bias), or a linear whose outputs are only multiplied on the way: `feed.up` of a SwiGLU,
`attention.value` where there are as many of its heads as of queries. GELU stands between the two linears of other nets, so
there only norms are scaled. Matrices of one input have one scale.

- `by_activation` (AWQ): scales mean |x| ^ a, with the a of `POWERS` whose rounded matrices lose least of the outputs.
- `smoothing` (SmoothQuant): largest |x| ^ a / largest |w| ^ (1 − a): activations lose their outliers to the weights.

Shapes: M outputs, N inputs.

Source: Lin et al. 2024 (AWQ), section 3.2; Xiao et al. 2023 (SmoothQuant), equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gyral.model.quant.calibration import Seen
from gyral.model.quant.packing import Packed

POWERS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_BEFORE = (
    ("before_attention", ("attention.query", "attention.key", "attention.value")),
    ("before_feed", ("feed.gate", "feed.up")),
    ("feed.up", ("feed.down",)),
    ("attention.value", ("attention.out",)),
)


class Scaled(NamedTuple):
    """What can be scaled together: the module before, the linears after it, and what these see."""

    before: nn.Module
    after: list[tuple[str, nn.Linear]]
    seen: Seen


def places(block: nn.Module, seen: dict[str, Seen]) -> Iterator[Scaled]:
    """Of a block of any net here, in the order of computation."""
    modules = dict(block.named_modules())
    for before, names in _BEFORE:
        first = modules.get(before)
        after = [(name, modules[name]) for name in names if isinstance(modules.get(name), nn.Linear)]
        if first is None or not after or after[0][0] not in seen:
            continue
        if isinstance(first, nn.Linear) and (
            first.out_features != after[0][1].in_features or (before == "feed.up" and "feed.gate" not in modules)
        ):
            continue
        yield Scaled(first, after, seen[after[0][0]])


@torch.no_grad()
def by_activation(block: nn.Module, seen: dict[str, Seen], pack: Callable[[Tensor, Tensor], Packed]) -> dict[str, float]:
    """Scale all places of a block; the power that each took is told.

    Parameters
    ----------
    pack : a matrix and X'X of its inputs → the matrix packed.
    """
    taken: dict[str, float] = {}
    for place in places(block, seen):
        gram, size = place.seen.gram, place.seen.size
        costs = []
        for power in POWERS:
            scale = _evened(size, power)
            inner = gram / torch.outer(scale, scale)
            cost = 0.0
            for _, linear in place.after:
                packed = pack(linear.weight * scale, inner)
                difference = torch.from_numpy(packed.dense()) / scale - linear.weight
                cost += float(((difference @ gram) * difference).sum())
            costs.append(cost)
        power = POWERS[costs.index(min(costs))]
        rescale(place, _evened(size, power), seen)
        taken[place.after[0][0]] = power
    return taken


@torch.no_grad()
def smoothing(block: nn.Module, seen: dict[str, Seen], power: float = 0.5) -> None:
    """Scale all places of a block."""
    for place in places(block, seen):
        largest = torch.stack([linear.weight.abs().amax(0) for _, linear in place.after]).amax(0).clamp(min=1e-5)
        scale = place.seen.most_N.clamp(min=1e-5) ** power / largest ** (1 - power)
        rescale(place, (scale / scale.log().mean().exp()).clamp(1e-2, 1e2), seen)


def rescale(place: Scaled, scale_N: Tensor, seen: dict[str, Seen]) -> None:
    """Columns times the scale, what comes before through it, what was seen as well; the net computes the same."""
    for name, linear in place.after:
        linear.weight.mul_(scale_N)
        if name in seen:
            seen[name].divide(scale_N)
    for param in place.before.parameters(recurse=False):
        param.div_(scale_N[:, None] if param.dim() == 2 else scale_N)


def _evened(size_N: Tensor, power: float) -> Tensor:
    scale = size_N.clamp(min=1e-6) ** power
    return (scale / (scale.max() * scale.min()).sqrt()).clamp(1e-3, 1e3)
