"""Which two of four stay, by what layers see, and what the others then become (see `gyral.model.quant.sparse`).

SparseGPT walks the columns as GPTQ does (`gyral.model.quant.gptq`): of each four, the two go whose w² / [H⁻¹]ᵢᵢ is least, given
all that was changed before, and what leaving them out did is taken back by the columns to the right.

Shapes: M outputs, N inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gyral.model.card import Weights
from gyral.model.quant import sparse
from gyral.model.quant.calibration import Calibration, blocks_fed
from gyral.model.quant.gptq import inverse_factor


@torch.no_grad()
def two_of_four(weight_MN: Tensor, gram_NN: Tensor, method: sparse.Method) -> Tensor:
    """The matrix with two of four."""
    if method == "sparsegpt":
        return _fitted(weight_MN.detach().float().clone(), inverse_factor(gram_NN))
    size_N = gram_NN.diagonal().sqrt() if method == "wanda" else torch.ones(weight_MN.shape[1])
    kept = torch.from_numpy(sparse.best_two((weight_MN.abs() * size_N).numpy()))
    return weight_MN * kept


def two_of_four_net(
    weights: Weights, matrices: Sequence[str], calibration: Calibration, method: sparse.Method = "sparsegpt"
) -> Weights:
    """Weights whose matrices in blocks are two of four, each fitted to what the blocks before it then give."""
    model = calibration.build(weights)
    found: dict[str, np.ndarray] = {}
    for place, block, seen in blocks_fed(model, calibration):
        for own, linear in block.named_modules():
            name = f"{place}.{own}.weight"
            if isinstance(linear, nn.Linear) and name in matrices and own in seen:
                linear.weight.data = two_of_four(linear.weight.data, seen[own].gram, method)
                found[name] = linear.weight.detach().numpy()
    return sparse.marked(weights, found)


def _fitted(w_MN: Tensor, factor_NN: Tensor) -> Tensor:
    columns = w_MN.shape[1]
    end = columns - columns % sparse.GROUP
    for begin in range(0, end, sparse.GROUP):
        four = slice(begin, begin + sparse.GROUP)
        price = w_MN[:, four].square() / factor_NN.diagonal()[four].square()
        kept = torch.from_numpy(sparse.best_two(price.numpy()))
        for at in range(begin, begin + sparse.GROUP):
            lost = torch.where(kept[:, at - begin], 0.0, w_MN[:, at]) / factor_NN[at, at]
            w_MN[:, at] = torch.where(kept[:, at - begin], w_MN[:, at], 0.0)
            w_MN[:, at + 1 :].addr_(lost, factor_NN[at, at + 1 :], alpha=-1)
    return w_MN
