"""Rows as bfloat16 and int8, rounded to the nearest or at random: what `gyral.params.coding` calls."""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.params.hashing_kernel import GOLDEN, U, drawn, mixed

_16, _LOW, _ODD, _HALF = np.uint32(16), U(0xFFFF), np.uint32(1), np.uint32(0x7FFF)
_UNIT = np.float32(2.0**-16)


@njit(nogil=True, cache=True)
def to_bf16(bits_KD: np.ndarray, out_KD: np.ndarray) -> None:
    """The nearest, ties to even, of float32 seen as uint32."""
    for row in range(U(bits_KD.shape[0])):
        for place in range(U(bits_KD.shape[1])):
            bits = bits_KD[row, place]
            out_KD[row, place] = (bits + _HALF + ((bits >> _16) & _ODD)) >> _16


@njit(nogil=True, cache=True)
def to_bf16_at_random(bits_KD: np.ndarray, keys_K: np.ndarray, seq: np.uint64, out_KD: np.ndarray) -> None:
    """Up or down with the probability that makes it right on average; the same for the same (seq, key)."""
    for row in range(U(bits_KD.shape[0])):
        hash_ = mixed(U(keys_K[row]) * GOLDEN ^ mixed(seq))
        bits = U(0)
        for place in range(U(bits_KD.shape[1])):
            if place & U(3) == U(0):
                bits = drawn(hash_, U(place))
            out_KD[row, place] = (bits_KD[row, place] + np.uint32(bits & _LOW)) >> _16
            bits >>= U(16)


@njit(nogil=True, cache=True)
def from_bf16(coded_KD: np.ndarray, bits_KD: np.ndarray) -> None:
    """Float32, seen as uint32."""
    for row in range(U(coded_KD.shape[0])):
        for place in range(U(coded_KD.shape[1])):
            bits_KD[row, place] = np.uint32(coded_KD[row, place]) << _16


@njit(nogil=True, cache=True)
def to_int8(rows_KD: np.ndarray, scale_K: np.ndarray, out_KD: np.ndarray) -> None:
    """The nearest multiple of the row's scale, its largest magnitude / 127; ties to even."""
    for row in range(U(rows_KD.shape[0])):
        scale = _scale(rows_KD, row)
        scale_K[row] = scale
        for place in range(U(rows_KD.shape[1])):
            out_KD[row, place] = np.int8(np.rint(rows_KD[row, place] / scale))


@njit(nogil=True, cache=True)
def to_int8_at_random(rows_KD: np.ndarray, keys_K: np.ndarray, seq: np.uint64, scale_K: np.ndarray, out_KD: np.ndarray) -> None:
    """As `to_int8`, up or down at random."""
    for row in range(U(rows_KD.shape[0])):
        scale = _scale(rows_KD, row)
        scale_K[row] = scale
        hash_ = mixed(U(keys_K[row]) * GOLDEN ^ mixed(seq))
        bits = U(0)
        for place in range(U(rows_KD.shape[1])):
            if place & U(3) == U(0):
                bits = drawn(hash_, U(place))
            noise = np.float32(bits & _LOW) * _UNIT
            bits >>= U(16)
            up = np.floor(rows_KD[row, place] / scale + noise)
            out_KD[row, place] = np.int8(min(np.float32(127), max(np.float32(-127), up)))


@njit(inline="always")
def _scale(rows_KD: np.ndarray, row: int) -> np.float32:
    most = np.float32(0)
    for place in range(U(rows_KD.shape[1])):
        most = max(most, abs(rows_KD[row, place]))
    return most / np.float32(127) if most > np.float32(1e-36) else np.float32(1)
