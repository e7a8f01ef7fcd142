"""A file of llama.cpp: keys, then tensors in blocks, written one tensor after the other.

The layout is that of GGUF 3, little-endian; blocks are rounded as ggml rounds them, so a block has the bits that llama.cpp's
own `quantize` gives it (the package `gguf` is the oracle of `tests/compress/test_gguf.py`). A tensor is packed when it is
written: more than the largest one is never held twice.

Source: `docs/gguf.md` of ggml (version 3), the block layouts of `ggml-common.h`, `quantize_row_q4_0_ref`,
`…_q4_1_ref` and `…_q8_0_ref` of `ggml-quants.c`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gyral.errors import InputError

MAGIC = b"GGUF"
VERSION, ALIGNMENT, BLOCK = 3, 32, 32
Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


class Kind(NamedTuple):
    """How values of a tensor are stored: its number in the format, values and bytes of a block, and how one is made."""

    number: int
    values: int
    size_bytes: int
    pack: Callable[[np.ndarray], bytes]

    def size_of(self, array: np.ndarray) -> int:
        """Bytes of a tensor."""
        return array.size // self.values * self.size_bytes

    def takes(self, array: np.ndarray) -> bool:
        """Whether rows are whole blocks."""
        return bool(array.shape[-1] % self.values == 0)


def _f16(array: np.ndarray) -> bytes:
    return array.astype("<f2").tobytes()


def _f32(array: np.ndarray) -> bytes:
    return array.astype("<f4").tobytes()


def _q8_0(array: np.ndarray) -> bytes:
    """32 values: their largest / 127 in float16, then a byte each."""
    blocks = array.reshape(-1, BLOCK).astype(np.float32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    turned = blocks * _inverse(scale)
    levels = np.sign(turned) * np.floor(np.abs(turned) + np.float32(0.5))  # halves go away from zero, as C's `roundf` does
    return _joined(scale.astype("<f2").view(np.uint8), levels.astype(np.int8).view(np.uint8))


def _q4_0(array: np.ndarray) -> bytes:
    """32 values: their largest, with its sign, / −8 in float16, then four bits each: the first half of them the low ones."""
    blocks = array.reshape(-1, BLOCK).astype(np.float32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = largest / np.float32(-8)
    levels = np.minimum(np.trunc(blocks * _inverse(scale) + np.float32(8.5)), 15).astype(np.uint8)
    half = BLOCK // 2
    return _joined(scale.astype("<f2").view(np.uint8), levels[:, :half] | (levels[:, half:] << 4))


def _q4_1(array: np.ndarray) -> bytes:
    """32 values: a fifteenth of their range and the smallest, in float16 each, then four bits each as above."""
    blocks = array.reshape(-1, BLOCK).astype(np.float32)
    least = blocks.min(axis=1, keepdims=True)
    scale = (blocks.max(axis=1, keepdims=True) - least) / np.float32(15)
    levels = np.minimum(np.trunc((blocks - least) * _inverse(scale) + np.float32(0.5)), 15).astype(np.uint8)
    half = BLOCK // 2
    heads = (each.astype("<f2").view(np.uint8) for each in (scale, least))
    return _joined(*heads, levels[:, :half] | (levels[:, half:] << 4))


def _inverse(scale: np.ndarray) -> np.ndarray:
    """1 / scale, 0 for a block of zeros."""
    found: np.ndarray = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    return found


def _joined(*parts: np.ndarray) -> bytes:
    return np.concatenate(parts, axis=1).tobytes()


F32, F16 = Kind(0, 1, 4, _f32), Kind(1, 1, 2, _f16)
Q4_0, Q4_1, Q8_0 = Kind(2, BLOCK, 18, _q4_0), Kind(3, BLOCK, 20, _q4_1), Kind(8, BLOCK, 34, _q8_0)


def write(path: Path, keys: Mapping[str, Value], tensors: Mapping[str, tuple[np.ndarray, Kind]]) -> None:
    """Write a file; it is not flushed to the disk here.

    Parameters
    ----------
    tensors : name → values, numpy's order of sizes, and how they are stored.

    Raises
    ------
    InputError : a tensor is not finite, or its rows are not whole blocks.
    """
    head = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(keys)))
    for key, value in keys.items():
        head += _text(key) + _value(value)
    at = 0
    for name, (array, kind) in tensors.items():
        if not kind.takes(array) or not np.isfinite(array).all():
            why = "its rows are not whole blocks" if not kind.takes(array) else "it holds numbers that are not finite"
            raise InputError(f"`{name}` cannot be written", why=why, where=str(path))
        sizes = array.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind.number, at)
        at += _padded(kind.size_of(array))
    with open(path, "wb") as file:
        file.write(head.ljust(_padded(len(head)), b"\0"))
        for array, kind in tensors.values():
            body = kind.pack(np.ascontiguousarray(array))
            file.write(body.ljust(_padded(len(body)), b"\0"))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    body = text.encode()
    return struct.pack("<Q", len(body)) + body


def _value(value: Value) -> bytes:
    if not isinstance(value, str) and isinstance(value, Sequence):
        kind = _kind_of(value[0]) if len(value) else _STRING
        kind = _INT32 if kind == _UINT32 else kind  # as llama.cpp's converter has token types
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(_body(kind, each) for each in value)
    kind = _kind_of(value)
    return struct.pack("<I", kind) + _body(kind, value)


def _kind_of(value: object) -> int:
    if isinstance(value, bool):
        return _BOOL
    return _STRING if isinstance(value, str) else _UINT32 if isinstance(value, int) else _FLOAT32


def _body(kind: int, value: object) -> bytes:
    if isinstance(value, str):
        return _text(value)
    return struct.pack({_BOOL: "<?", _UINT32: "<I", _INT32: "<i", _FLOAT32: "<f"}[kind], value)
