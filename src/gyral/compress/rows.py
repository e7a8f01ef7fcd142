"""Compressors of a recommender's tables (`gyral.model.tables`).

| `--to` | a row of N numbers | how |
|---|---|---|
| `rows-int8` | N bytes | round to nearest, a scale a row: `int8` |
| `rows-int4` | .52 N bytes | round to nearest, a scale and a zero for 128 columns |
| `rows-pq8` | N / 8 bytes, and a book | each 8 columns the nearest of 256 words (k-means) |
| `rows-hash-4` | no row of its own | the sum of two rows that others have, too: a fourth of the rows in all |

What is not learned again cannot make up for shared rows, so hashing after training is for tables whose rows are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from gyral.compress.quantize import int8
from gyral.errors import UsageError
from gyral.model import tables
from gyral.model.card import Weights
from gyral.model.quant import packing

TABLES = ("item_item", "transition", "objects.weight", "subjects.weight", "words.weight")
WORDS, ROUNDS = 256, 8
GROUP = 128
"""Columns that share a scale in 4 bits: a sum of 100 rows of 1,682 takes 1.5 times float32's time, and 3.3 with 32."""
Compressor = Callable[[Weights, Sequence[str]], Weights]


def rows_int8(weights: Weights, matrices: Sequence[str]) -> Weights:
    """One byte a number."""
    return int8(weights, _tables(matrices))


def rows_int4(weights: Weights, matrices: Sequence[str]) -> Weights:
    """Half a byte a number."""
    names = _tables(matrices)
    packed = {name: packing.to_int4(weights.arrays[name], GROUP) for name in names}
    arrays = {key: array for key, array in weights.arrays.items() if key not in {f"{name}_scale" for name in names}}
    return packing.with_packed(Weights(arrays, weights.settings), packed)


def rows_pq(columns: str) -> Compressor:
    """A byte for so many columns, `2` to `64`.

    Raises
    ------
    UsageError : it is no such number.
    """
    width = _whole_number("rows-pq", columns, 2, 64)
    return _of_each(lambda matrix: coded(matrix, width))


def rows_hash(times: str) -> Compressor:
    """So many times fewer rows, `2` to `64`.

    Raises
    ------
    UsageError : it is no such number.
    """
    fewer = _whole_number("rows-hash-", times, 2, 64)
    return _of_each(lambda matrix: hashed(matrix, fewer))


def _of_each(change: Callable[[np.ndarray], tables.Coded | tables.Hashed]) -> Compressor:
    """What changes one table [M, N], of all that are named."""

    def make(weights: Weights, matrices: Sequence[str]) -> Weights:
        for name in _tables(matrices):
            weights = with_table(weights, name, change(packing.sound(weights.arrays[name])))
        return weights

    return make


def coded(matrix: np.ndarray, width: int, seed: int = 0) -> tables.Coded:
    """A matrix [M, N]: each part of `width` columns by the nearest of at most 256 words, by k-means from rows drawn."""
    rows, columns = matrix.shape
    parts = -(-columns // width)
    padded = np.zeros((rows, parts * width), np.float32)
    padded[:, :columns] = matrix
    random = np.random.default_rng(seed)
    book = np.zeros((parts, WORDS, width), np.float32)
    codes = np.zeros((rows, parts), np.uint8)
    for part in range(parts):
        points = padded[:, part * width : (part + 1) * width]
        words = points[random.permutation(rows)[: min(WORDS, rows)]].copy()
        for _ in range(ROUNDS):
            nearest = _nearest(points, words)
            words = _means(points, nearest, words)
        book[part, : len(words)] = words
        codes[:, part] = _nearest(points, words.astype(np.float16).astype(np.float32))
    return tables.Coded(codes, book, columns)


def hashed(matrix: np.ndarray, fewer: int, rounds: int = 20) -> tables.Hashed:
    """Of a matrix [M, N] two tables of M / (2 · fewer) rows whose sums are nearest to its rows: least squares, in turn."""
    rows = len(matrix)
    num = max(1, rows // (2 * fewer))
    one, two = tables.places(np.arange(rows), num)
    first = np.zeros((num, matrix.shape[1]), np.float32)
    second = np.zeros_like(first)
    for _ in range(rounds):
        first = _means(matrix - second[two], one, first)
        second = _means(matrix - first[one], two, second)
    return tables.Hashed(first, second, rows)


def with_table(weights: Weights, name: str, table: tables.Coded | tables.Hashed) -> Weights:
    """Weights with a table in another kind."""
    kind: Literal["pq", "hash"] = "pq" if isinstance(table, tables.Coded) else "hash"
    first, second = (table.codes, table.book) if isinstance(table, tables.Coded) else (table.first, table.second)
    first = first if isinstance(table, tables.Coded) else first.astype(np.float16)
    arrays = {key: array for key, array in weights.arrays.items() if key not in (name, name + tables.SCALE)}
    arrays |= {name: first, name + (tables.BOOK if kind == "pq" else tables.SECOND): second.astype(np.float16)}
    told: dict[str, Any] = {**weights.settings.get(tables.SETTING, {}), name: [kind, *table.shape]}
    return Weights(arrays, {**weights.settings, tables.SETTING: told})


def _means(points: np.ndarray, groups: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Mean of each group's points; of a group without points what it was."""
    order = np.argsort(groups, kind="stable")
    there, starts = np.unique(groups[order], return_index=True)
    found = otherwise.copy()
    if len(there):
        sums = np.add.reduceat(points[order], starts, axis=0)
        found[there] = sums / np.diff(np.append(starts, len(points)))[:, None]
    return found


def _nearest(points: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Number of each point's nearest word, of equals the first."""
    nearest: np.ndarray = np.argmin((words**2).sum(1) - 2 * points @ words.T, axis=1)
    return nearest


def _tables(matrices: Sequence[str]) -> list[str]:
    found = [name for name in matrices if name in TABLES]
    if not found:
        raise UsageError("this model has no tables of rows", hint="`rows-…` is for models with tables; `--to int8` is for all")
    return found


def _whole_number(name: str, text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UsageError(f"`{name}{text}` names no number from {least} to {most}", hint=f"write it as `{name}8`")
    return int(text)
