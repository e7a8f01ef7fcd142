"""Matrices in the order in which oneDNN multiplies with them fastest, float32 and bf16.

`F.linear` takes a matrix as it lies and packs it anew for each product, or walks it row by row where rows are few. Reordered
once, it is read straight through. ms a product, one thread, as it lies / reordered (EPYC with AVX-512, PyTorch 2.13):

| matrix | | 1 row | 8 rows | 64 rows |
|---|---|---|---|---|
| 2304 × 768 | float32 | .089 / .084 | .37 / .14 | 2.1 / .87 |
| 32000 × 768 | float32 | 5.8 / 2.3 | 10.9 / 3.6 | 35 / 14 |
| 2304 × 768 | bf16 | .10 / .05 | .13 / .08 | .50 / .45 |
| 32000 × 768 | bf16 | 2.9 / 1.1 | 3.5 / 1.9 | 8.8 / 7.1 |
| 96 × 64 | float32 | .003 / .014 | .003 / .013 | .010 / .015 |

The operators are private ones of PyTorch: they are tried on a matrix of each shape first, and where they are absent, wrong or
slower, matrices stay as they lie: float32 here, bf16 by `kernels`, where they are one way of several.

Shapes: B rows, N inputs, M outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gyral.model.quant.trying import error, seconds

LEAST = 1 << 17
"""Weights of a matrix from which on reordering pays: smaller ones lie in a cache, and the call costs more than it saves."""
ROWS = 64
"""Rows for which the order is chosen; with the one for a single row, products of many take a tenth longer."""
ERROR = 1e-5
"""Of the whole result, relative, that float32 sums in another order may differ by."""
TRIED = (1, 8, 32)


def reordered(weight_MN: Tensor) -> Callable[[Tensor], Tensor]:
    """The product of rows with a dense matrix, float32 [B, N] → [B, M], by a copy of it where that is faster."""
    weight_MN = weight_MN.detach().float()
    if not serves(tuple(weight_MN.shape)):
        return lambda x_BN: F.linear(x_BN, weight_MN)
    matrix = reorder(weight_MN)
    return lambda x_BN: multiply(x_BN, matrix)


def reorder(weight_MN: Tensor) -> Tensor:
    """A copy that only `multiply` can read."""
    matrix: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_MN.contiguous(), ROWS)
    return matrix


def multiply(x_BN: Tensor, matrix: Tensor) -> Tensor:
    """x [B, N] of the matrix's type → [B, M] of the same."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x_BN, matrix, None, "none", [], "")
    return found


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether reordering may pay at all."""
    return shape[0] * shape[1] >= LEAST


def serves(shape: tuple[int, ...]) -> bool:
    """Whether float32 matrices of this shape are better reordered on this machine; asked once a process and shape."""
    return is_large(shape) and _tried(shape, torch.get_num_threads())


@functools.cache
@torch.inference_mode()
def _tried(shape: tuple[int, ...], threads: int) -> bool:
    del threads  # part of what is remembered
    random = torch.Generator().manual_seed(0)
    weight_MN = torch.randn(shape, generator=random)
    inputs = [torch.randn(rows, shape[1], generator=random) for rows in TRIED]
    try:
        matrix = reorder(weight_MN)
        for x_BN in inputs:
            if not error(multiply(x_BN, matrix), x_BN, weight_MN) <= ERROR:
                return False
    except (RuntimeError, AttributeError, NotImplementedError):  # another PyTorch, another processor
        return False
    as_it_lies = sum(seconds(F.linear, x_BN, weight_MN) for x_BN in inputs)
    return sum(seconds(multiply, x_BN, matrix) for x_BN in inputs) <= as_it_lies
