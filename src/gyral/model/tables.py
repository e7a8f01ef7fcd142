"""Tables of recommenders in fewer bytes: rows of objects, subjects and words, and what objects say of one another.

| kind | `NAME` | beside it | bytes a number |
|---|---|---|---|
| as it is | float32 [M, N] | | 4 |
| `int8` | int8 [M, N] | `NAME_scale` float32 [M] | 1 |
| `int4` | uint8 [M, ⌈N / 2⌉] | `NAME_scale`, `NAME_zero` (`gyral.model.quant.packing`) | .52 |
| `pq` | codes, uint8 [M, S] | `NAME_book` float16 [S, 256, d] | 1 / d, and the book |
| `hash` | float16 [b, N] | `NAME_second` float16 [b, N] | 4 b / M: a row is the sum of two that others have, too |

`pq` and `hash` stand in the settings, `tables: {NAME: [kind, rows, columns]}`. `add` is what a request costs in the closed
form: it reads the rows as they lie, so what is loaded is what is stored (books and hashed rows as float32). Nets
(`gyral.model.neural_recommender`) make their tables dense.

Shapes: M rows, N columns, S parts of a row of d columns, b rows of a hashed table.

Source: Jégou, Douze and Schmid 2011 (product quantization); Shi et al. 2020 (compositional embeddings), with the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from gyral.errors import InputError
from gyral.model import item_item

SETTING = "tables"
SCALE, BOOK, SECOND = "_scale", "_book", "_second"


class Table(Protocol):
    """Rows, however they lie."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def dense(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Some rows, float32."""

    def add(self, out: np.ndarray, head: np.ndarray, rows: np.ndarray, by: np.ndarray) -> None:
        """out[head] += Σ by · row, over the rows given; rows below 0 count for nothing."""


class Plain(NamedTuple):
    """float32 or int8, a scale a row."""

    values: np.ndarray
    scale: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def dense(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        return np.asarray(self.values[rows] * self.scale[rows][:, None], dtype=np.float32)

    def add(self, out: np.ndarray, head: np.ndarray, rows: np.ndarray, by: np.ndarray) -> None:
        item_item.add_rows(out, head, self.values, self.scale, rows, by)


class Int4(NamedTuple):
    """Two numbers a byte; scale and offset of each group, float32 [M, g]."""

    values: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    group: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values), self.columns

    def dense(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        every = np.arange(len(self.values))[rows]
        out = np.zeros((len(every), self.columns), np.float32)
        for at, row in enumerate(every.astype(np.int32)):
            self.add(out[at], np.arange(self.columns, dtype=np.int32), np.array([row], np.int32), np.ones(1, np.float32))
        return out

    def add(self, out: np.ndarray, head: np.ndarray, rows: np.ndarray, by: np.ndarray) -> None:
        item_item.add_rows_int4(out, head, self.values, self.scale, self.offset, self.group, rows, by)


class Coded(NamedTuple):
    """Codes uint8 [M, S] into the book [S, 256, d]."""

    codes: np.ndarray
    book: np.ndarray
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.codes), self.columns

    def dense(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        codes = self.codes[rows]
        found = self.book[np.arange(codes.shape[1]), codes]
        return np.asarray(found.reshape(len(codes), -1)[:, : self.columns], np.float32)

    def add(self, out: np.ndarray, head: np.ndarray, rows: np.ndarray, by: np.ndarray) -> None:
        item_item.add_rows_coded(out, head, self.codes, self.book, self.columns, rows, by)


class Hashed(NamedTuple):
    """Each row the sum of one of `first` and one of `second`, [b, N] each, by two hashes of its number."""

    first: np.ndarray
    second: np.ndarray
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.first.shape[1]

    def dense(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        one, two = places(np.arange(self.rows)[rows], len(self.first))
        return np.asarray(self.first[one].astype(np.float32) + self.second[two])

    def add(self, out: np.ndarray, head: np.ndarray, rows: np.ndarray, by: np.ndarray) -> None:
        ones = np.ones(len(self.first), np.float32)
        for each, table in zip(places(rows, len(self.first)), (self.first, self.second), strict=True):
            item_item.add_rows(out, head, table, ones, np.where(rows < 0, -1, each).astype(np.int32), by)


def places(rows: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Where rows lie in two tables of `num` rows: by their number, and by a hash of it (splitmix64's).

    A multiplicative hash alone walks with the number: 400 rows in two tables of 50 then shared 263 pairs of places.
    """
    mixed = (rows.astype(np.int64).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, by in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(by)
    return rows % num, ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(num)).astype(np.int64)


def table_of(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], name: str) -> Table:
    """A table as it is stored.

    Raises
    ------
    InputError : its arrays are not as the settings say.
    """
    told = settings.get(SETTING, {}).get(name)
    try:
        if told is None:
            return _plain(arrays, settings, name)
        kind, rows, columns = told
        if kind == "pq":
            codes, book = arrays[name], arrays[name + BOOK].astype(np.float32)
            found: Table = Coded(codes, book, columns)
            is_sound = codes.shape == (rows, len(book)) and book.shape[1] == 256 and len(book) * book.shape[2] >= columns
        elif kind == "hash":
            first, second = (arrays[each].astype(np.float32) for each in (name, name + SECOND))
            found = Hashed(first, second, rows)
            is_sound = first.shape == second.shape and first.shape[1] == columns
        else:
            raise ValueError(f"the kind `{kind}` is not known")
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError("a table is not stored as the settings say", why=f"`{name}`: {error}") from None
    if not is_sound:
        raise InputError("a table is not stored as the settings say", why=f"`{name}` is not {kind} of {rows} x {columns}")
    return found


def _plain(arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], name: str) -> Table:
    values = arrays[name]
    packed = settings.get("packed", {})
    if name in packed:
        from gyral.model.card import Weights  # which knows recommenders
        from gyral.model.quant.packing import divided

        own = {key: array for key, array in arrays.items() if key.startswith(name)}
        found = divided(Weights(own, {"packed": {name: packed[name]}}))[1][name]
        return Int4(values, found.scale, found.offset(), found.group, found.shape[1])  # the bytes that are there, no copy
    scale = arrays[name + SCALE] if name + SCALE in arrays else np.ones(len(values), np.float32)
    return Plain(values, scale)
