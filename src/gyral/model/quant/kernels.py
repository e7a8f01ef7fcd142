"""Ways to multiply with packed matrices on this machine, and which of them is taken.

Private and legacy operators of torch are the only fast ones (torchao's wheel has no kernels for processors). None is trusted:
each is tried on the very shape it is to serve, against the dense weights in float64, and is used when it is right within its
tolerance and not slower than float32 at 1, 8 and 32 rows by more than `PATIENCE`. The first of the order that passes is taken
and not the fastest, so two processes of one machine take the same one and answer alike.

ms of 1536 × 576, one thread, at 1 / 8 / 32 / 128 rows (Xeon with AVX-512 VNNI and AMX; `benchmarks/compress/kernels.py`):

| kernel | kind | activations | | what |
|---|---|---|---|---|
| `dynamic` | int8 | int8, a scale a row | .03 / .07 / .2 / .6 | FBGEMM's product, rows scaled to ±1 |
| `by_row` | int8 | int8, a scale a row | .14 / .15 / .2 | `_int_mm` |
| `weights` | int8 | bf16 | .05 / .19 / .7 / 2.9 | `_weight_int8pack_mm` |
| `int4pack` | int4 | bf16 | .05 / .17 / .7 / 2.8 | `_weight_int4pack_mm_for_cpu`; 32 to 256 columns a group, rows by 16 |
| `reordered` | bf16 | bf16 | .05 / .08 / – / .45 at 64 | 2304 × 768 on an EPYC; `bf16` there: .10 / .13 / – / .50 |
| `bf16` | bf16 | bf16 | .14 / .19 / .22 / .43 | `linear` |
| `plain` | any | float32 | .16 / .42 / .49 / 1.3 | `linear` of the dense weights: right anywhere, and no smaller than float32 |

Matrices below some 100,000 weights lie in the caches in float32, too: there `plain` is mostly the one taken, and the gain is
the file's alone.

Shapes: B rows, N inputs, M outputs, g groups.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gyral.model.quant.packing import Kind, Packed
from gyral.model.quant.reordered import is_large, multiply, reorder
from gyral.model.quant.trying import error, seconds

ROWS = (1, 8, 32)
"""Rows at which a kernel is tried."""
PATIENCE = 1.25
"""Times that a kernel may take of the plain one's: a fourth of the memory is worth a fourth more time."""


class Kernel(NamedTuple):
    """One way.

    Attributes
    ----------
    error : relative, of the whole result, that the way of computing allows.
    prepare : the matrix as the kernel wants it.
    multiply : x [B, N] float32 and what `prepare` gave → [B, M] float32.
    fits : whether it takes such a matrix.
    rival : another way for the same matrices, which it must be no slower than.
    restore : from what `prepare` gave to the matrix again; None: it cannot.
    """

    name: str
    kind: Kind | None
    error: float
    prepare: Callable[[Packed], tuple[Any, ...]]
    multiply: Callable[..., Tensor]
    fits: Callable[[Packed], bool] = lambda packed: True
    restore: Callable[..., Packed] | None = None
    rival: Kernel | None = None


class Choice(NamedTuple):
    """The kernel taken, its time as a share of the plain one's (0: not tried), and why others were not."""

    kernel: Kernel
    share: float
    refused: dict[str, str]


def _prepare_dynamic(packed: Packed) -> tuple[Any, ...]:
    rows = packed.shape[0]
    scale = torch.from_numpy(packed.scale).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch deprecates quantized tensors, and has nothing as fast
        make = torch._make_per_channel_quantized_tensor
        matrix = make(torch.from_numpy(packed.values), scale, torch.zeros(rows, dtype=torch.long), 0)
    return (torch.ops.quantized.linear_prepack(matrix, None),)


def _dynamic(x_BN: Tensor, matrix: Any) -> Tensor:
    """To the bit what each row gives alone: `linear_dynamic` takes its one scale from the rows that come together."""
    largest_B1 = x_BN.abs().amax(1, keepdim=True).clamp_(min=1e-30)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    found: Tensor = multiply(x_BN / largest_B1, 1 / 127, 128, matrix)
    return found.mul_(largest_B1)


def _restore_dynamic(matrix: Any) -> Packed:
    weight, _ = torch.ops.quantized.linear_unpack(matrix)
    scale = weight.q_per_channel_scales().float().numpy()
    return Packed("int8", weight.int_repr().numpy(), scale, np.zeros((0, 0), np.uint8))


def _prepare_by_row(packed: Packed) -> tuple[Any, ...]:
    return torch.from_numpy(packed.values).t(), torch.from_numpy(packed.scale)


def _by_row(x_BN: Tensor, values_NM: Tensor, scale_M: Tensor) -> Tensor:
    scale_B1 = x_BN.abs().amax(1, keepdim=True).clamp_(min=1e-30) / 127
    levels = torch.round(x_BN / scale_B1).to(torch.int8)
    return torch._int_mm(levels, values_NM).float().mul_(scale_B1).mul_(scale_M)


def _prepare_weights(packed: Packed) -> tuple[Any, ...]:
    return torch.from_numpy(packed.values), torch.from_numpy(packed.scale).bfloat16()


def _weights(x_BN: Tensor, values_MN: Tensor, scale_M: Tensor) -> Tensor:
    return torch._weight_int8pack_mm(x_BN.bfloat16(), values_MN, scale_M).float()


def _fits_weights(packed: Packed) -> bool:
    """Other numbers of columns end the process: it reads beyond them."""
    return not (packed.shape[0] % 4 or packed.shape[1] % 32)


def _prepare_int4pack(packed: Packed) -> tuple[Any, ...]:
    levels = torch.from_numpy(packed.values.astype(np.int32))
    scale_gM, offset_gM = (torch.from_numpy(part).t().bfloat16() for part in (packed.scale, packed.offset()))
    both = torch.stack([scale_gM, offset_gM], dim=2).contiguous()
    return torch._convert_weight_to_int4pack_for_cpu(levels, 1), packed.group, both


def _int4pack(x_BN: Tensor, matrix: Tensor, group: int, both: Tensor) -> Tensor:
    return torch._weight_int4pack_mm_for_cpu(x_BN.bfloat16(), matrix, group, both).float()


def _fits_int4pack(packed: Packed) -> bool:
    rows, columns = packed.shape
    return packed.group in (32, 64, 128, 256) and columns % packed.group == 0 and rows % 16 == 0


def _prepare_bf16(packed: Packed) -> tuple[Any, ...]:
    return (torch.from_numpy(packed.values.view(np.int16)).view(torch.bfloat16),)


def _prepare_reordered(packed: Packed) -> tuple[Any, ...]:
    return (reorder(*_prepare_bf16(packed)),)


def _reordered(x_BN: Tensor, matrix: Tensor) -> Tensor:
    return multiply(x_BN.bfloat16(), matrix).float()


def _bf16(x_BN: Tensor, matrix_MN: Tensor) -> Tensor:
    return F.linear(x_BN.bfloat16(), matrix_MN).float()


def _prepare_plain(packed: Packed) -> tuple[Any, ...]:
    return (torch.from_numpy(packed.dense()),)


PLAIN = Kernel("plain", None, 1e-5, _prepare_plain, F.linear)
BF16 = Kernel("bf16", "bf16", 0.006, _prepare_bf16, _bf16)
KERNELS = (
    Kernel("dynamic", "int8", 0.02, _prepare_dynamic, _dynamic, restore=_restore_dynamic),
    Kernel("by_row", "int8", 0.02, _prepare_by_row, _by_row, lambda packed: not any(size % 8 for size in packed.shape)),
    Kernel("weights", "int8", 0.006, _prepare_weights, _weights, _fits_weights),
    Kernel("int4pack", "int4", 0.008, _prepare_int4pack, _int4pack, _fits_int4pack),
    Kernel("reordered", "bf16", 0.006, _prepare_reordered, _reordered, lambda packed: is_large(packed.shape), rival=BF16),
    BF16,
)
"""In the order in which they are tried."""
_known: dict[tuple[Any, ...], Choice] = {}


def choose(packed: Packed, kernels: tuple[Kernel, ...] = KERNELS) -> Choice:
    """The first kernel that is right and fast enough for a matrix of this kind and shape; asked once a process and shape.

    Half a second for all shapes of a language model of 135 million parameters.
    """
    key = (packed.kind, packed.shape, packed.group, torch.get_num_threads(), tuple(each.name for each in kernels))
    if key not in _known:
        _known[key] = _tried(packed, kernels)
    return _known[key]


@torch.inference_mode()
def _tried(packed: Packed, kernels: tuple[Kernel, ...]) -> Choice:
    dense = PLAIN.prepare(packed)
    random = torch.Generator().manual_seed(0)
    inputs = [torch.randn(rows, packed.shape[1], generator=random) for rows in ROWS]
    refused: dict[str, str] = {}
    plain_s: list[float] = []
    for kernel in (each for each in kernels if each.kind == packed.kind):
        if not kernel.fits(packed):
            refused[kernel.name] = "it takes no such shape"
            continue
        try:
            prepared = kernel.prepare(packed)
            wrong = max(error(kernel.multiply(x, *prepared), x, dense[0]) for x in inputs)
        except (RuntimeError, AttributeError, NotImplementedError) as failure:  # another torch, another processor
            refused[kernel.name] = str(failure).splitlines()[0][:120] if str(failure) else type(failure).__name__
            continue
        if not wrong <= kernel.error:
            refused[kernel.name] = f"wrong by {wrong:.3f} of the result"
            continue
        plain_s = plain_s or [seconds(F.linear, x, *dense) for x in inputs]
        own_s = [seconds(kernel.multiply, x, *prepared) for x in inputs]
        if kernel.rival:
            beside = kernel.rival.prepare(packed)
            if sum(own_s) > sum(seconds(kernel.rival.multiply, x, *beside) for x in inputs):
                refused[kernel.name] = f"slower than `{kernel.rival.name}`"
                continue
        share = math.prod(own / plain for own, plain in zip(own_s, plain_s, strict=True)) ** (1 / len(inputs))
        if share <= PATIENCE:
            return Choice(kernel, share, refused)
        refused[kernel.name] = f"{share:.2f} times the time of float32"
    return Choice(PLAIN, 0.0, refused)
