"""Matrices in few bits, as they lie in `weights.safetensors`: the same bytes on every machine.

| kind | `NAME` | `NAME_scale` | `NAME_zero` | bits a weight |
|---|---|---|---|---|
| `int8` | int8 [M, N] | float32 [M] | | 8 + 32 / N |
| `int4` | uint8 [M, ⌈N / 2⌉], the even column in the low half | bf16 [M, N / G] | uint8, two a byte as well | 4.625 at G = 32 |
| `bf16` | its bits as uint16 [M, N] | | | 16 |

A weight of `int4` is (q − 8) s + c with c = (8 − z) s rounded to bf16: what the kernel that multiplies fastest computes, so all
kernels mean the same weight. Zero as a whole number costs .125 bits a weight where a bf16 offset costs .5; scales of 16 bits
against 32 save .5. Against symmetric groups (4.5 bits) the asymmetric ones lose a third less (`dev/LOG.md`).
Settings say `packed: {NAME: [kind, columns, group]}`; what they do not name is as it is, int8 with a scale a row included.

Shapes: M rows (outputs), N columns (inputs), G columns of a group, g = ⌈N / G⌉ groups of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.model.card import Weights
from gyral.model.quant import sparse

Kind = Literal["int8", "int4", "bf16"]
GROUP = 32
LEVELS = 15
MIDDLE = 8


class Packed(NamedTuple):
    """A matrix in few bits.

    Attributes
    ----------
    values : int8 [M, N], one level a weight; of `int4` 0 to 15; of `bf16` uint16.
    scale : float32, [M] or [M, g]; empty for `bf16`.
    zero : uint8 [M, g] of `int4`, the level that means 0; else empty.
    group : columns that share a scale; 0: all.
    """

    kind: Kind
    values: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    group: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.values.shape
        return rows, columns

    @property
    def size_bytes(self) -> int:
        """What it takes in a file."""
        return sum(array.nbytes for array in _stored("", self).values())

    def offset(self) -> np.ndarray:
        """c of `int4`, float32 [M, g]."""
        return rounded_bf16((MIDDLE - self.zero.astype(np.float32)) * self.scale)

    def dense(self, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """The weights it means, of some rows, float32."""
        values = self.values[rows]
        if self.kind == "bf16":
            return of_bf16(values)
        if self.kind == "int8":
            return np.asarray(values.astype(np.float32) * self.scale[rows][:, None])
        columns = values.shape[1]
        scale = np.repeat(self.scale[rows], self.group, axis=1)[:, :columns]
        offset = np.repeat(self.offset()[rows], self.group, axis=1)[:, :columns]
        return np.asarray((values.astype(np.float32) - MIDDLE) * scale + offset)


def to_int8(matrix: np.ndarray) -> Packed:
    """Round to nearest, one symmetric scale a row.

    Raises
    ------
    InputError : a weight is no finite number.
    """
    matrix = sound(matrix)
    scale = (np.abs(matrix).max(axis=1, initial=0.0) / 127).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1.0))
    values = np.clip(np.rint(matrix / scale[:, None]), -127, 127).astype(np.int8)
    return Packed("int8", values, scale, np.zeros((0, 0), np.uint8))


def to_int4(matrix: np.ndarray, group: int = GROUP) -> Packed:
    """Round to nearest: each group from its least to its largest weight, 0 included.

    Raises
    ------
    InputError : a weight is no finite number.
    """
    matrix = sound(matrix)
    scale, zero = int4_range(matrix, group)
    return Packed("int4", int4_levels(matrix, scale, zero, group), scale, zero, group)


def to_bf16(matrix: np.ndarray) -> Packed:
    """Round to nearest, ties to even.

    Raises
    ------
    InputError : a weight is no finite number.
    """
    empty = np.zeros((0, 0), np.float32)
    return Packed("bf16", bits_of_bf16(sound(matrix)), empty, empty.astype(np.uint8))


def int4_range(matrix: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale, float32 as bf16 has it, and zero, uint8, of each group, [M, g]."""
    starts = np.arange(0, matrix.shape[1], group)
    low = np.minimum(np.minimum.reduceat(matrix, starts, axis=1), 0.0)
    high = np.maximum(np.maximum.reduceat(matrix, starts, axis=1), 0.0)
    scale = rounded_bf16((high - low) / LEVELS)
    scale = np.where(scale > 0, scale, np.float32(1.0))
    return scale, np.clip(np.rint(-low / scale), 0, LEVELS).astype(np.uint8)


def int4_levels(matrix: np.ndarray, scale: np.ndarray, zero: np.ndarray, group: int) -> np.ndarray:
    """The nearest level of each weight, int8 [M, N]."""
    columns = matrix.shape[1]
    offset = rounded_bf16((MIDDLE - zero.astype(np.float32)) * scale)
    each, middle = (np.repeat(part, group, axis=1)[:, :columns] for part in (scale, offset))
    return np.asarray(np.clip(np.rint((matrix - middle) / each) + MIDDLE, 0, LEVELS).astype(np.int8))


def is_for_int4(shape: Sequence[int], group: int = GROUP) -> bool:
    """Whether a kernel multiplies such a matrix in 4 bits."""
    return shape[0] % 16 == 0 and shape[1] % group == 0


def stored_bytes(kind: Kind, shape: tuple[int, int], group: int = GROUP) -> int:
    """What a matrix takes in a file, by its shape: `Packed.size_bytes` of one that was not made yet."""
    rows, columns = shape
    if kind == "bf16":
        return 2 * rows * columns
    if kind == "int8":
        return rows * columns + 4 * rows
    groups = -(-columns // group)
    return rows * (-(-columns // 2) + 2 * groups + -(-groups // 2))


def with_packed(weights: Weights, packed: Mapping[str, Packed]) -> Weights:
    """Weights of which some matrices are packed; the others stay."""
    arrays = dict(weights.arrays)
    told = dict(weights.settings.get("packed", {}))
    for name, each in packed.items():
        arrays |= _stored(name, each)
        told[name] = [each.kind, each.shape[1], each.group]
    return Weights(arrays, {**weights.settings, "packed": told})


def divided(weights: Weights) -> tuple[dict[str, np.ndarray], dict[str, Packed]]:
    """Arrays that are as they are, and matrices that are packed.

    Raises
    ------
    InputError : a packed one is not as the settings say.
    """
    try:
        told: dict[str, Any] = dict(weights.settings.get("packed", {}))
        arrays = dict(sparse.whole(weights).arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError("the weights are not packed as their settings say", why=str(error)) from None
    for name, array in list(arrays.items()):
        if name not in told and array.dtype == np.int8 and array.ndim == 2 and f"{name}_scale" in arrays:
            told[name] = ["int8", array.shape[1], 0]
    packed = {}
    for name, said in told.items():
        try:
            kind, columns, group = said
            packed[name] = _read(name, arrays, kind, int(columns), int(group))
        except (KeyError, ValueError, TypeError, IndexError, ArithmeticError) as error:
            why = f"`{name}` is not of kind, columns and group {said}: {error}"
            raise InputError("the weights are not packed as their settings say", why=why) from None
        for end in ("", "_scale", "_zero"):
            arrays.pop(f"{name}{end}", None)
    return arrays, packed


def chosen(weights: Weights, patterns: Iterable[str]) -> list[str]:
    """Names of float matrices that match one of some patterns, or are factors of one that did; `*` stands for anything."""
    every = [each for name in patterns for each in (name, *_thin(name))]
    return [
        name
        for name, array in weights.arrays.items()
        if array.ndim == 2 and array.dtype.kind == "f" and any(fnmatchcase(name, pattern) for pattern in every)
    ]


def _thin(pattern: str) -> list[str]:
    """Where a linear was made of two thin ones."""
    return [pattern.removesuffix("weight") + f"{at}.weight" for at in (0, 1)] if pattern.endswith(".weight") else []


def bits_of_bf16(values: np.ndarray) -> np.ndarray:
    """float32 → the upper half of its bits, rounded to even, uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def of_bf16(bits: np.ndarray) -> np.ndarray:
    """The way back, float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded_bf16(values: np.ndarray) -> np.ndarray:
    """float32 as bf16 has it."""
    return of_bf16(bits_of_bf16(values))


def halves(levels: np.ndarray) -> np.ndarray:
    """Levels of 0 to 15 [M, N], two a byte: uint8 [M, ⌈N / 2⌉]."""
    even = levels[:, ::2].astype(np.uint8)
    odd = np.zeros_like(even)
    odd[:, : levels.shape[1] // 2] = levels[:, 1::2]
    return even | (odd << 4)


def unhalved(halved: np.ndarray, columns: int) -> np.ndarray:
    """The way back, uint8 [M, N]."""
    found = np.empty((len(halved), 2 * halved.shape[1]), np.uint8)
    found[:, ::2], found[:, 1::2] = halved & 15, halved >> 4
    return found[:, :columns]


def _stored(name: str, packed: Packed) -> dict[str, np.ndarray]:
    if packed.kind == "bf16":
        return {name: packed.values}
    if packed.kind == "int8":
        return {name: packed.values, f"{name}_scale": packed.scale}
    return {name: halves(packed.values), f"{name}_scale": bits_of_bf16(packed.scale), f"{name}_zero": halves(packed.zero)}


def _read(name: str, arrays: Mapping[str, np.ndarray], kind: Kind, columns: int, group: int) -> Packed:
    values = arrays[name]
    if kind == "int8":
        packed = Packed(kind, values, arrays[f"{name}_scale"], np.zeros((0, 0), np.uint8))
        _expect(packed.scale.shape == (len(values),) and values.dtype == np.int8)
    elif kind == "bf16":
        packed = Packed(kind, values, np.zeros((0, 0), np.float32), np.zeros((0, 0), np.uint8))
        _expect(values.dtype == np.uint16)
    elif kind == "int4":
        groups = -(-columns // group)
        zero = unhalved(arrays[f"{name}_zero"], groups)
        packed = Packed(kind, unhalved(values, columns).view(np.int8), of_bf16(arrays[f"{name}_scale"]), zero, group)
        _expect(packed.scale.shape == packed.zero.shape == (len(values), groups))
    else:
        raise ValueError(f"the kind `{kind}` is not known")
    _expect(packed.values.ndim == 2 and packed.shape[1] == columns)
    return packed


def _expect(is_so: bool) -> None:
    if not is_so:
        raise ValueError("its arrays have other shapes or types")


def sound(matrix: np.ndarray) -> np.ndarray:
    """The matrix in float32.

    Raises
    ------
    InputError : a weight is no finite number.
    """
    matrix = np.asarray(matrix, np.float32)
    if not np.isfinite(matrix).all():
        count = int((~np.isfinite(matrix)).sum())
        raise InputError(f"{count:,} of {matrix.size:,} weights are no finite numbers", hint="train the model again")
    return matrix
