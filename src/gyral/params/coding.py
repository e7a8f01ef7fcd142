"""How rows of float32 travel: as they are, as bfloat16 (half the bytes), or as int8 with one scale a row (a quarter)."""

from __future__ import annotations

import numpy as np

from gyral.params import coding_kernel as kernel

NAMES = ("f32", "bf16", "int8")


def form(name: str, dim: int) -> tuple[type, int]:
    """What a row is an array of, and how many.

    Raises
    ------
    ValueError : there is no such coding.
    """
    if name not in NAMES:
        raise ValueError(f"a coding `{name}`")
    return {"f32": (np.float32, dim), "bf16": (np.uint16, dim), "int8": (np.uint8, dim + 4)}[name]


def empty(name: str, num: int, dim: int) -> np.ndarray:
    """Room for that many rows."""
    dtype, width = form(name, dim)
    return np.empty((num, width), dtype)


def nearest(name: str, rows_KD: np.ndarray) -> np.ndarray:
    """Rows in a coding, each value rounded to the nearest."""
    if name == "f32":
        return rows_KD
    out = empty(name, *rows_KD.shape)
    if name == "bf16":
        kernel.to_bf16(rows_KD.view(np.uint32), out)
    else:
        kernel.to_int8(rows_KD, *_parts(out))
    return out


def unbiased(name: str, rows_KD: np.ndarray, keys_K: np.ndarray, seq: int) -> np.ndarray:
    """Rows in a coding, right on average; the same for the same `seq` and keys."""
    if name == "f32":
        return rows_KD
    out = empty(name, *rows_KD.shape)
    if name == "bf16":
        kernel.to_bf16_at_random(rows_KD.view(np.uint32), keys_K, np.uint64(seq), out)
    else:
        kernel.to_int8_at_random(rows_KD, keys_K, np.uint64(seq), *_parts(out))
    return out


def decoded(name: str, coded: np.ndarray, dim: int) -> np.ndarray:
    """Float32 [K, D]."""
    if name == "f32":
        return coded
    if name == "bf16":
        out = np.empty((len(coded), dim), np.float32)
        kernel.from_bf16(coded, out.view(np.uint32))
        return out
    scale_K, values_KD = _parts(coded)
    return np.asarray(values_KD.astype(np.float32) * scale_K[:, None])


def _parts(coded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales [K] and values [K, D] of rows in int8; first all scales, then all values, so both are contiguous."""
    num, dim = coded.shape[0], coded.shape[1] - 4
    flat = coded.reshape(-1)
    return flat[: 4 * num].view(np.float32), flat[4 * num :].view(np.int8).reshape(num, dim)
