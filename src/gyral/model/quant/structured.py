"""Heads and channels taken out of a net's blocks: what is left is a smaller dense net, which any code here serves.

What a channel is worth is what its outputs carry: mean square of what it gives, seen on real inputs, by the square of the
weights that read it (its column of `feed.down`; of a head, its columns of `attention.out` with the products among them). The
columns that stay are fitted anew to give what all gave, by least squares over the same inputs. On a model of .8 million
parameters over bytes a sixth of the channels costs 1.4 % with that fit and 3.4 % without it; half of its four heads doubles the
bits, fit or no fit (`benchmarks/compress/fewer.py`).

Every block loses as many, so a net still has one shape. Heads that share keys and values go together. Channels are kept by 32
where there are so many, so that what is left can have 4 bits; no more than the share asked for goes.

Shapes: M outputs, N inputs of the linear that reads, K of them kept.

Source: the importance is the diagonal case of Hassibi and Stork 1993 (OBS); the fit is that of He, Zhang and Sun 2017.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gyral.model.card import Weights
from gyral.model.nets.llama import CausalAttention
from gyral.model.quant.calibration import Calibration, Seen, blocks_fed

DAMPING = 1e-3
"""Of the mean diagonal, in the fit."""
BY = 32
"""Channels are kept by so many where a net's width inside is a multiple."""


@torch.no_grad()
def pruned_net(weights: Weights, calibration: Calibration, share: float) -> Weights:
    """Weights without a share of each block's heads and channels; with nothing to take, the same arrays.

    Parameters
    ----------
    share : of heads and of channels, [0, 1).
    """
    model = calibration.build(weights)
    settings = dict(weights.settings)
    for prune in (_prune_heads, _prune_channels):  # channels are judged by what the heads that are left give
        for place, block, seen in blocks_fed(model, calibration):
            key = place.rpartition(".")[0].rpartition(".")[0] or "shape"
            settings[key] = {**settings[key], **prune(block, seen, share)}
    if settings == weights.settings:
        return weights
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    arrays = {name: state[name].astype(array.dtype) if name in state else array for name, array in weights.arrays.items()}
    return Weights(arrays, settings)


def kept_channels(num: int, share: float) -> int:
    """Channels that stay of so many."""
    by = BY if num % BY == 0 else 1
    return min(num, max(by, math.ceil(round(num * (1 - share) / by, 9)) * by))


def kept_groups(num: int, share: float) -> int:
    """Groups of heads that stay of so many; at least one."""
    return max(1, math.ceil(round(num * (1 - share), 9)))


def fitted(weight_MN: Tensor, gram_NN: Tensor, kept_K: Tensor) -> Tensor:
    """Columns that give, of the inputs kept, what all gave: least squares, [M, K]."""
    gram = gram_NN.double()
    inner = gram[kept_K][:, kept_K]
    inner = inner + DAMPING * inner.diagonal().mean().clamp(min=1e-12) * torch.eye(len(kept_K), dtype=torch.float64)
    lost = torch.ones(len(gram), dtype=torch.bool)
    lost[kept_K] = False
    change = torch.linalg.solve(inner, gram[kept_K][:, lost] @ weight_MN[:, lost].double().t()).t()
    found: Tensor = (weight_MN[:, kept_K].double() + change).to(weight_MN.dtype)
    return found


def _prune_channels(block: nn.Module, seen: dict[str, Seen], share: float) -> dict[str, Any]:
    down = dict(block.named_modules()).get("feed.down")
    if not isinstance(down, nn.Linear) or "feed.down" not in seen:  # experts: a router would have to learn anew
        return {}
    kept = kept_channels(down.in_features, share)
    if kept == down.in_features:
        return {}
    gram = seen["feed.down"].gram
    worth = gram.diagonal() * down.weight.square().sum(0)
    which = torch.topk(worth, kept).indices.sort().values
    _read_by(down, fitted(down.weight, gram, which))
    for name, linear in block.named_modules():
        if name in ("feed.gate", "feed.up") and isinstance(linear, nn.Linear):
            _give_only(linear, which)
    return {"hidden": kept}


def _prune_heads(block: nn.Module, seen: dict[str, Seen], share: float) -> dict[str, Any]:
    parts = dict(block.named_modules())
    attention = parts["attention"]
    out, key = parts["attention.out"], parts["attention.key"]
    if not isinstance(out, nn.Linear) or not isinstance(key, nn.Linear) or "attention.out" not in seen:
        return {}
    width: int = attention.head_width
    groups = key.out_features // width
    kept = kept_groups(groups, share)
    if kept == groups:
        return {}
    gram, columns = seen["attention.out"].gram, out.in_features // groups
    worth = torch.stack(
        [
            torch.einsum("mi,ij,mj->", out.weight[:, at : at + columns], gram[at : at + columns, at : at + columns],
                         out.weight[:, at : at + columns])
            for at in range(0, out.in_features, columns)
        ]
    )  # fmt: skip
    which = torch.topk(worth, kept).indices.sort().values
    _read_by(out, fitted(out.weight, gram, _spread(which, columns)))
    for name in ("query", "key", "value"):
        linear = parts[f"attention.{name}"]
        if isinstance(linear, nn.Linear):
            _give_only(linear, _spread(which, linear.out_features // groups))
    found: dict[str, Any] = {"heads": kept * columns // width, "head": width}
    return found | ({"kv_heads": kept} if isinstance(attention, CausalAttention) else {})


def _spread(groups: Tensor, width: int) -> Tensor:
    """Places of all that belongs to some groups."""
    return (groups[:, None] * width + torch.arange(width)).flatten()


def _read_by(linear: nn.Linear, weight: Tensor) -> None:
    linear.weight, linear.in_features = nn.Parameter(weight.contiguous()), weight.shape[1]


def _give_only(linear: nn.Linear, rows: Tensor) -> None:
    linear.weight, linear.out_features = nn.Parameter(linear.weight[rows].contiguous()), len(rows)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[rows].contiguous())
