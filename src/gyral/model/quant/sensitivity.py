"""Which matrices should keep 8 bits: how much of a net's outputs each one costs in 4, for the bytes it saves.

Each matrix alone is rounded, everything else dense, and one batch of the calibration is run: the change of the outputs, as a
share of them, by its bytes is its price. The dearest stay in 8 bits until the mean bits a weight are used up. A price says
nothing of errors that meet, so it orders matrices and foretells no sum; what is published is measured as a whole.

Source: Dong et al. 2019 (HAWQ) for the order by price; here the outputs are measured and no Hessian is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gyral.model.card import Weights
from gyral.model.quant.calibration import Calibration
from gyral.model.quant.packing import GROUP, is_for_int4, stored_bytes, to_int4


class Price(NamedTuple):
    """Of one matrix in 4 bits: squared change of the outputs as a share of them, and bytes saved against 8 bits."""

    changed: float
    saved_bytes: float

    @property
    def each(self) -> float:
        return self.changed / self.saved_bytes


@torch.inference_mode()
def prices(weights: Weights, matrices: Sequence[str], how: Calibration, group: int = GROUP) -> dict[str, Price]:
    """Of each matrix in blocks that could have 4 bits; one forward pass of one batch each."""
    model = how.build(weights)
    params: Mapping[str, Tensor] = dict(model.named_parameters())
    places = tuple(f"{container}." for container in how.containers)
    found = {}
    feeds = how.feeds[:1] if len(how.containers) == 1 else [how.feeds[0], how.feeds[-1]]  # both towers have one
    before = [feed(model) for feed in feeds]
    for name in matrices:
        if not name.startswith(places) or name not in params or not is_for_int4(params[name].shape, group):
            continue
        kept = params[name].clone()
        params[name].copy_(torch.from_numpy(to_int4(kept.numpy(), group).dense()))
        changed = max(_change(feed(model), each) for feed, each in zip(feeds, before, strict=True))
        params[name].copy_(kept)
        rows, columns = kept.shape
        saved = stored_bytes("int8", (rows, columns)) - stored_bytes("int4", (rows, columns), group)
        found[name] = Price(changed, saved)
    return found


def in_eight(found: Mapping[str, Price], bits: float, group: int = GROUP) -> list[str]:
    """The dearest matrices, as many as a mean of so many bits a weight allows."""
    four = 4 + 20 / group
    saved = sum(each.saved_bytes for each in found.values())
    left = saved * max(0.0, bits - four) / (8 - four)
    chosen = []
    for name in sorted(found, key=lambda name: (-found[name].each, name)):
        if found[name].saved_bytes <= left:
            left -= found[name].saved_bytes
            chosen.append(name)
    return chosen


def _change(after: Tensor, before: Tensor) -> float:
    return float(((after - before) ** 2).sum() / (before**2).sum().clamp(min=1e-30))
