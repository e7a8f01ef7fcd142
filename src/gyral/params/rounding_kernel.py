"""Weights of fewer bits: bfloat16, and int8 with one scale a row, rounded at random so that small steps are not lost.

The chance of rounding up is the remainder, so the expected value is the number itself. The bits are drawn from the key's hash
and its bucket's clock (`counters`), which counts steps: the same stream gives the same bits, whatever the number of shards.

Source: Gupta et al., arXiv 1502.02551 (stochastic rounding).
"""

from __future__ import annotations

import numpy as np

from gyral.params.hashing_kernel import GOLDEN, mixed
from gyral.params.kernel import kernel, part

U = np.uint64
F32, BF16, INT8 = 0, 1, 2
DTYPES = {"f32": F32, "bf16": BF16, "int8": INT8}
_1, _2, _3, _4, _16, _LOW = U(1), U(2), U(3), U(4), U(16), U(0xFFFF)
_UNIT = np.float32(2.0**-16)
_INFINITE = np.uint32(0x7F800000)


@part
def noise(moment: np.uint64, place: np.uint64) -> np.uint64:
    """16 random bits for weight `place`; `moment` is the key's hash mixed with the clock."""
    return (mixed(moment + ((place >> _2) + _1) * GOLDEN) >> (_16 * (place & _3))) & _LOW


@part
def widened(half: np.uint64) -> np.uint32:
    """Bits of the float32 that a bfloat16 is."""
    return np.uint32(half << _16)


@kernel
def decode(
    dtype: int, floats: np.ndarray, halves: np.ndarray, octets: np.ndarray, start: np.uint64, dim: np.uint64,
    out: np.ndarray, out_bits: np.ndarray, into: np.uint64,
) -> None:  # fmt: skip
    """Weights that begin at word `start`, as float32 into `out` (`out_bits`: its memory as uint32) from `into` on."""
    if dtype == F32:
        for at in range(dim):
            out[into + at] = floats[start + at]
    elif dtype == BF16:
        for at in range(dim):
            out_bits[into + at] = widened(U(halves[start * _2 + at]))
    else:
        scale = floats[start]
        for at in range(dim):
            out[into + at] = np.float32(np.int8(octets[(start + _1) * _4 + at])) * scale


@kernel
def encode(
    dtype: int, values: np.ndarray, bits: np.ndarray, dim: np.uint64, moment: np.uint64,
    floats: np.ndarray, halves: np.ndarray, octets: np.ndarray, start: np.uint64,
) -> None:  # fmt: skip
    """Round float32 `values` (`bits`: their memory as uint32) into weights that begin at word `start`."""
    if dtype == F32:
        for at in range(dim):
            floats[start + at] = values[at]
        return
    if dtype == BF16:
        for at in range(dim):
            exact = U(bits[at])
            rounded = exact + noise(moment, U(at))
            if (rounded & U(_INFINITE)) == U(_INFINITE):
                rounded = exact
            halves[start * _2 + at] = rounded >> _16
        return
    largest = np.float32(0)
    for at in range(dim):
        largest = max(largest, abs(values[at]))
    scale = largest / np.float32(127)
    floats[start] = scale
    by = np.float32(1) / scale if scale > 0 and largest < np.float32(1e38) else np.float32(0)
    for at in range(dim):
        whole = np.floor(values[at] * by + np.float32(noise(moment, U(at))) * _UNIT)
        octets[(start + _1) * _4 + at] = np.uint8(np.int8(max(np.float32(-127), min(np.float32(127), whole))))
