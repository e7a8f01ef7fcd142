"""Two of four: of every four neighbours in a row two are zero, and only the others are stored.

Which two go: the smallest (`magnitude`), the smallest by the size of their inputs (`wanda`), or by what leaving them out costs
once the weights to the right have made up for it (`sparsegpt`, which also makes up for it). Where N is no multiple of four, the
last ones stay.

A stored matrix `NAME` holds the values kept, [M, N / 2], in whatever type it has, and `NAME_places` a byte for two groups of
four: .53 of float32's bytes, .56 of bf16's, .63 of int8's. No operator of a processor multiplies with them, so what is loaded
is dense again: files are smaller, memory and time are not. Tensor cores of GPUs are made for it.

Settings say `sparse: {NAME: columns}`. Quantization after pruning has to keep zeros: int8 and bf16 do.

Shapes: M outputs, N inputs.

Source: Frantar and Alistarh 2023 (SparseGPT), algorithm 1 with n:m; Sun et al. 2024 (Wanda); Mishra et al. 2021 (the layout).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np

from gyral.errors import UsageError
from gyral.model.card import Weights

Method = Literal["magnitude", "wanda", "sparsegpt"]
SETTING, PLACES = "sparse", "_places"
GROUP, KEPT = 4, 2
_PAIRS = np.array(list(combinations(range(GROUP), KEPT)), np.uint8)
"""The six ways to keep two of four: number → places."""


def best_two(worth_MN: np.ndarray) -> np.ndarray:
    """Of every four columns the two of most worth, bool [M, N]; of equals the first; columns beyond the last four all stay."""
    rows, columns = worth_MN.shape
    whole = columns - columns % GROUP
    groups = worth_MN[:, :whole].reshape(rows, -1, GROUP)
    order = np.argsort(-groups, axis=-1, kind="stable")
    kept = np.zeros(groups.shape, bool)
    np.put_along_axis(kept, order[..., :KEPT], True, axis=-1)
    return np.concatenate([kept.reshape(rows, whole), np.ones((rows, columns - whole), bool)], axis=1)


def marked(weights: Weights, arrays: Mapping[str, np.ndarray]) -> Weights:
    """Weights with such matrices, which `stored` will halve."""
    told = {**weights.settings.get(SETTING, {}), **{name: array.shape[1] for name, array in arrays.items()}}
    return Weights({**weights.arrays, **arrays}, {**weights.settings, SETTING: told})


def stored(weights: Weights) -> Weights:
    """As it lies in a file.

    Raises
    ------
    UsageError : a marked matrix has more than two of four, or its type has no zero: a later step has filled it.
    """
    told: dict[str, int] = weights.settings.get(SETTING, {})
    arrays = dict(weights.arrays)
    for name, columns in told.items():
        if f"{name}{PLACES}" not in arrays:
            arrays[name], arrays[f"{name}{PLACES}"] = halved(arrays[name], columns, name)
    return Weights(arrays, weights.settings)


def whole(weights: Weights) -> Weights:
    """The way back: matrices with their zeros, of the type they have.

    Raises
    ------
    KeyError, ValueError : not stored as the settings say.
    """
    told: Mapping[str, Any] = weights.settings.get(SETTING, {})
    arrays = dict(weights.arrays)
    for name, columns in told.items():
        if f"{name}{PLACES}" in arrays:
            arrays[name] = filled(arrays[name], arrays.pop(f"{name}{PLACES}"), int(columns))
    return Weights(arrays, weights.settings)


def halved(matrix: np.ndarray, columns: int, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Values kept [M, 2 ⌊N / 4⌋ + N mod 4], and the pair of each group, two a byte: uint8 [M, ⌈⌊N / 4⌋ / 2⌉].

    Raises
    ------
    UsageError : there are more than two of four.
    """
    hint = "after `2:4` weights can become `int8` or `bf16`, which keep zeros"
    if matrix.shape[1] != columns:
        raise UsageError(f"`{name}` cannot be stored two of four", why="its levels have no zero", hint=hint)
    rows, end = len(matrix), columns - columns % GROUP
    groups = matrix[:, :end].reshape(rows, -1, GROUP)
    is_there = groups != 0
    if (is_there.sum(-1) > KEPT).any():
        raise UsageError(f"`{name}` is not two of four any more", why="a later step has filled its zeros", hint=hint)
    order = np.sort(np.argsort(~is_there, axis=-1, kind="stable")[..., :KEPT], axis=-1)
    values = np.take_along_axis(groups, order, axis=-1).reshape(rows, -1)
    number = np.zeros((GROUP, GROUP), np.uint8)
    for at, (one, two) in enumerate(_PAIRS):
        number[one, two] = at
    pairs = number[order[..., 0], order[..., 1]]
    even, odd = pairs[:, ::2], pairs[:, 1::2]
    both = even.copy()
    both[:, : odd.shape[1]] |= odd << 4
    return np.concatenate([values, matrix[:, end:]], axis=1), both


def filled(values: np.ndarray, places: np.ndarray, columns: int) -> np.ndarray:
    """The way back, [M, N]."""
    rows, end = len(values), columns - columns % GROUP
    num = end // GROUP
    pairs = np.empty((rows, 2 * places.shape[1]), np.uint8)
    pairs[:, ::2], pairs[:, 1::2] = places & 15, places >> 4
    if values.shape[1] != KEPT * num + columns - end or places.shape[1] != -(-num // 2) or (pairs >= len(_PAIRS)).any():
        raise ValueError(f"its places are not those of {columns} columns")
    groups = np.zeros((rows, num, GROUP), values.dtype)
    where = _PAIRS[pairs[:, :num]].astype(np.int64)
    np.put_along_axis(groups, where, values[:, : KEPT * num].reshape(rows, num, KEPT), axis=-1)
    return np.concatenate([groups.reshape(rows, end), values[:, KEPT * num :]], axis=1)


def stored_bytes(shape: Sequence[int], value_bytes: int) -> int:
    """What a matrix takes in a file, by its shape: the numbers kept and 4 bits a group, whole bytes a row."""
    rows, columns = shape
    num = columns // GROUP
    return rows * ((KEPT * num + columns % GROUP) * value_bytes + -(-num // 2))
