"""A matrix as the product of two thin ones, the nearest by what its inputs are.

With X'X = L L' of a layer's inputs the error ‖(W − U V) X‖ is that of W L, so its singular vectors are cut and L is taken back.
Two factors of rank r hold r (M + N) numbers of M N: half the bytes are r = M N / (2 (M + N)), a quarter of all where M = N.

In a folder `NAME.weight` becomes `NAME.0.weight` [r, N] and `NAME.1.weight` [M, r], and settings say `ranks: {NAME: r}`.

Shapes: M outputs, N inputs, r rank.

Source: Yuan et al. 2023 (ASVD) and Wang et al. 2024 (SVD-LLM): the whitening by a Cholesky factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gyral.errors import InputError
from gyral.model.card import Weights
from gyral.model.quant.calibration import Calibration, blocks_fed

DAMPING = 1e-4
SETTING = "ranks"


def rank_of(shape: Sequence[int], share: float) -> int:
    """The rank at which two factors hold such a share of a matrix's numbers."""
    rows, columns = shape
    return max(1, int(share * rows * columns / (rows + columns)))


@torch.no_grad()
def factors(weight_MN: Tensor, gram_NN: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """First [r, N], second [M, r]: second @ first is the nearest of its rank for inputs of such products."""
    gram = gram_NN.double()
    mean = float(gram.diagonal().mean())
    damping = DAMPING * (mean or 1.0)
    for _ in range(6):
        low, failed = torch.linalg.cholesky_ex(gram + damping * torch.eye(len(gram), dtype=torch.float64))
        if not failed:
            break
        damping *= 10
    left, values, right = torch.linalg.svd(weight_MN.double() @ low, full_matrices=False)
    first = torch.linalg.solve_triangular(low.t(), right[:rank].t(), upper=True).t()  # V L⁻¹
    root = values[:rank].sqrt()
    return (root[:, None] * first).float(), (left[:, :rank] * root).float()


@torch.no_grad()
def factored_net(weights: Weights, matrices: Sequence[str], calibration: Calibration, share: float) -> Weights:
    """Weights whose matrices in blocks are two factors of such a share of their numbers; with a share of 1 the same arrays."""
    if share >= 1:
        return weights
    model = calibration.build(weights)
    arrays, ranks = dict(weights.arrays), {}
    for place, block, seen in blocks_fed(model, calibration):
        for own, linear in list(block.named_modules()):
            name = f"{place}.{own}"
            if not isinstance(linear, nn.Linear) or f"{name}.weight" not in matrices or own not in seen:
                continue
            rank = rank_of(linear.weight.shape, share)
            first, second = factors(linear.weight, seen[own].gram, rank)
            linear.weight.data = second @ first
            ranks[name] = rank
            del arrays[f"{name}.weight"]
            arrays |= {f"{name}.0.weight": first.numpy(), f"{name}.1.weight": second.numpy()}
            if f"{name}.bias" in arrays:
                arrays[f"{name}.1.bias"] = arrays.pop(f"{name}.bias")
    return Weights(arrays, {**weights.settings, SETTING: ranks})


def make_room(model: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """The net with two thin linears in the place of each that was factored."""
    for name, rank in ranks.items():
        linear = dict(model.named_modules()).get(name)
        if not isinstance(linear, nn.Linear) or not 0 < rank <= min(linear.weight.shape):
            raise InputError("the weights are not those of this model", why=f"`{name}` has no place in it")
        owner, _, own = name.rpartition(".")
        with torch.device(linear.weight.device):
            thin = nn.Linear(linear.in_features, rank, bias=False)
            both = nn.Sequential(thin, nn.Linear(rank, linear.out_features, bias=linear.bias is not None))
        setattr(model.get_submodule(owner), own, both)
    return model


def merged(arrays: Mapping[str, np.ndarray], ranks: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Arrays with the products in the place of their factors: for tools that know plain matrices only."""
    whole = dict(arrays)
    for name in ranks:
        first, second = whole.pop(f"{name}.0.weight"), whole.pop(f"{name}.1.weight")
        whole[f"{name}.weight"] = second @ first
        if f"{name}.1.bias" in whole:
            whole[f"{name}.bias"] = whole.pop(f"{name}.1.bias")
    return whole
