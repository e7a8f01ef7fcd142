"""From dense weights to packed ones, by what layers see: which method, and which bits for which matrix.

| method | scales before | rounding |
|---|---|---|
| `gptq` | none | GPTQ |
| `awq` | AWQ | to nearest, ranges searched |
| `smooth` | SmoothQuant | int8 to nearest |

Matrices outside of blocks (embeddings, the output matrix, projections) are int8: in 4 bits the tied matrix of a language model
costs more than all blocks together, and saves a fifth of the bytes. So are those that no kernel multiplies in 4 bits (columns
not by 32, rows not by 16).

Shapes: M rows, N columns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from gyral.model.card import Weights
from gyral.model.quant import scaling
from gyral.model.quant.calibration import Calibration, Seen, blocks_fed
from gyral.model.quant.gptq import gptq_int4, searched_int4
from gyral.model.quant.packing import GROUP, Packed, is_for_int4, sound, to_int4, to_int8, with_packed

Method = Literal["gptq", "awq", "smooth"]


def packed_net(
    weights: Weights,
    matrices: Sequence[str],
    calibration: Calibration,
    method: Method = "gptq",
    *,
    group: int = GROUP,
    in_int8: Collection[str] = (),
) -> Weights:
    """Weights whose matrices are packed; what comes before scaled ones is changed with them.

    Parameters
    ----------
    matrices : names of the arrays to pack.
    in_int8 : of them, those that stay in 8 bits.

    Raises
    ------
    InputError : a weight is no finite number.
    """
    for name in matrices:
        sound(weights.arrays[name])
    model = calibration.build(weights)
    packed: dict[str, Packed] = {}
    for place, block, seen in blocks_fed(model, calibration):
        if method == "awq":
            scaling.by_activation(block, seen, partial(_searched, group=group))
        elif method == "smooth":
            scaling.smoothing(block, seen)
        for own, linear in block.named_modules():
            name = f"{place}.{own}.weight"
            if isinstance(linear, nn.Linear) and name in matrices:
                is_eight = method == "smooth" or name in in_int8 or not is_for_int4(linear.weight.shape, group)
                packed[name] = _packed(linear.weight, seen.get(own), None if is_eight else method, group)
                linear.weight.data = torch.from_numpy(packed[name].dense())
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    packed |= {name: to_int8(state[name]) for name in matrices if name not in packed}
    arrays = {name: state[name].astype(array.dtype) if name in state else array for name, array in weights.arrays.items()}
    return with_packed(Weights(arrays, weights.settings), packed)


def rounded_net(weights: Weights, matrices: Sequence[str], *, group: int = GROUP) -> Weights:
    """The same bits by rounding to nearest alone."""
    packed = {}
    for name in matrices:
        array = weights.arrays[name]
        is_four = ".blocks." in f".{name}" and is_for_int4(array.shape, group)
        packed[name] = to_int4(array, group) if is_four else to_int8(array)
    return with_packed(weights, packed)


def _searched(weight: Tensor, gram: Tensor, group: int) -> Packed:
    return searched_int4(weight, gram, group)


def _packed(weight: Tensor, seen: Seen | None, method: Method | None, group: int) -> Packed:
    if method is None:
        return to_int8(weight.detach().numpy())
    if seen is None or not seen.num:  # an expert that no token went to
        return to_int4(weight.detach().numpy(), group)
    return gptq_int4(weight, seen.gram, group) if method == "gptq" else searched_int4(weight, seen.gram, group)
