"""GPTQ: columns are rounded one after the other, and what rounding one did to the outputs is taken back by those that are left.

Columns go from the largest to the least mean square of their input (the order costs nothing here, because scales of groups are
fixed before), so errors end where inputs are small. Scales are searched: of ranges cut by up to `CUT`, a group has the one that
costs least by its inputs. The Hessian is damped by `DAMPING` of its mean diagonal.

Cost: M N² multiplications and some ten small operations a column: 14 s for the 106 million weights of a model of 135 million.

Shapes: M outputs, N inputs, g groups of G columns.

Source: Frantar et al. 2023 (GPTQ), algorithm 1, with the ordering of its repository; Frantar and Alistarh 2022 (OBC), eq. 2.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gyral.model.quant.packing import GROUP, LEVELS, MIDDLE, Packed, int4_levels, rounded_bf16

DAMPING = 0.01
CUT, CUTS = 0.3, 7
BLOCK = 128


def gptq_int4(weight_MN: Tensor, gram_NN: Tensor, group: int = GROUP, *, is_ordered: bool = True) -> Packed:
    """A matrix in 4 bits by what its inputs are.

    Parameters
    ----------
    gram_NN : X'X of its inputs, any scale.
    is_ordered : columns by the size of their inputs; False: as they stand.
    """
    matrix = weight_MN.detach().float().numpy()
    scale, zero = searched_range(matrix, gram_NN.diagonal().numpy(), group)
    order = torch.argsort(gram_NN.diagonal(), descending=True, stable=True) if is_ordered else torch.arange(matrix.shape[1])
    offset = torch.from_numpy(rounded_bf16((MIDDLE - zero.astype(np.float32)) * scale))
    of_column = order // group
    scale_MN, offset_MN = torch.from_numpy(scale)[:, of_column], offset[:, of_column]
    levels_MN = _rounded(
        weight_MN.detach().float()[:, order].clone(), inverse_factor(gram_NN[order][:, order]), scale_MN, offset_MN
    )
    values = torch.empty_like(levels_MN)
    values[:, order] = levels_MN
    return Packed("int4", values.to(torch.int8).numpy(), scale, zero, group)


def searched_int4(weight_MN: Tensor, gram_NN: Tensor, group: int = GROUP) -> Packed:
    """Round to nearest, within ranges that cost least by the inputs."""
    matrix = weight_MN.detach().float().numpy()
    scale, zero = searched_range(matrix, gram_NN.diagonal().numpy(), group)
    return Packed("int4", int4_levels(matrix, scale, zero, group), scale, zero, group)


def searched_range(matrix: np.ndarray, size_N: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero of each group, of those tried the ones of least Σ size (w − ŵ)².

    Parameters
    ----------
    size_N : mean square of each column's input.
    """
    rows, columns = matrix.shape
    groups = -(-columns // group)
    padded = torch.zeros(rows, groups * group)
    padded[:, :columns] = torch.from_numpy(matrix)
    w_MgG = padded.view(rows, groups, group)
    size_gG = torch.zeros(groups * group)
    size_gG[:columns] = torch.from_numpy(size_N.astype(np.float32))
    size_gG = size_gG.view(groups, group)
    low, high = w_MgG.amin(2).clamp(max=0), w_MgG.amax(2).clamp(min=0)
    least, scale, zero = torch.full_like(low, torch.inf), torch.ones_like(low), torch.zeros_like(low)
    for share in np.linspace(1.0, 1.0 - CUT, CUTS).tolist():
        each = ((high - low) * share / LEVELS).bfloat16().float()
        each = torch.where(each > 0, each, 1.0)
        level = (-low * share / each).round().clamp_(0, LEVELS)
        offset = ((MIDDLE - level) * each).bfloat16().float()[..., None]
        found = (
            ((w_MgG - offset) / each[..., None]).round_().clamp_(-MIDDLE, LEVELS - MIDDLE).mul_(each[..., None]).add_(offset)
        )
        cost = found.sub_(w_MgG).square_().mul_(size_gG).sum(2)
        is_less = cost < least
        least, scale, zero = (torch.where(is_less, a, b) for a, b in ((cost, least), (each, scale), (level, zero)))
    return scale.numpy(), zero.to(torch.uint8).numpy()


def inverse_factor(gram_NN: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped Hessian."""
    gram = gram_NN.double()
    diagonal = gram.diagonal()
    damping = DAMPING * max(float(diagonal.mean()), 1e-12)
    for _ in range(6):  # fewer rows than columns and inputs that are one another's sums need more
        damped = gram + torch.diag(torch.where(diagonal > 0, damping, max(float(diagonal.mean()), 1.0)))
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            break
        damping *= 10
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    return upper.float()


def _rounded(w_MN: Tensor, factor_NN: Tensor, scale_MN: Tensor, offset_MN: Tensor) -> Tensor:
    """Levels, 0 to 15; the weights that are left are changed in place."""
    rows, columns = w_MN.shape
    levels_NM = torch.empty(columns, rows)
    w_NM, scale_NM, offset_NM = w_MN.t().contiguous(), scale_MN.t().contiguous(), offset_MN.t().contiguous()
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        errors = torch.empty(end - begin, rows)
        for at in range(begin, end):
            w, scale, offset = w_NM[at], scale_NM[at], offset_NM[at]
            level = ((w - offset) / scale).round_().clamp_(-MIDDLE, LEVELS - MIDDLE)
            levels_NM[at] = level + MIDDLE
            error = (w - torch.addcmul(offset, level, scale)) / factor_NN[at, at]
            w_NM[at + 1 : end].addr_(factor_NN[at, at + 1 : end], error, alpha=-1)
            errors[at - begin] = error
        w_NM[end:].addmm_(factor_NN[begin:end, end:].t(), errors, alpha=-1)
    return levels_NM.t().contiguous()
