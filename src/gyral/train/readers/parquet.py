"""Parquet: rows by index out of row groups.

A row costs its whole row group, so a shuffled order over many large ones reads each again and again: the last `KEPT` are held,
and rows of one call are read group by group. With row groups of a few thousand rows, or few of them, this is no matter; else
`gyral curate` the files first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gyral.train.readers.rows import Column, checked, chosen, damaged, digest_of

KEPT = 16


class Parquet:
    """Rows of the Parquet files of a folder, in the order of their names.

    Raises
    ------
    InputError : a file is damaged, or has other columns than the first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._groups: list[tuple[Path, int]] = []
        rows, marks = [], []
        schema: pa.Schema | None = None
        for path in sorted(folder.glob("*.parquet")):
            try:
                with pq.ParquetFile(path) as file:
                    told, found = file.metadata, file.schema_arrow
            except (OSError, pa.ArrowException) as error:
                raise damaged(path, str(error)) from None
            if schema is not None and not found.equals(schema):
                raise damaged(path, "its columns are not those of the first file")
            schema = found
            self._groups += [(path, number) for number in range(told.num_row_groups)]
            rows += [told.row_group(number).num_rows for number in range(told.num_row_groups)]
            marks.append(f"{path.name} {path.stat().st_size} {told.num_rows} {path.stat().st_mtime_ns}".encode())
        self.columns: tuple[str, ...] = tuple(schema.names if schema is not None else ())
        self.digest = digest_of(marks)
        self._ends = np.cumsum([0, *rows])
        self._kept: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: np.ndarray, columns: Sequence[str] | None = None) -> dict[str, Column]:
        """As `Rows.read`; numbers without nulls are arrays."""
        names = chosen(columns, self.columns, self.folder)
        found = checked(indices, len(self), self.folder)
        owners = np.searchsorted(self._ends, found, side="right") - 1
        if not len(found):
            return {name: [] for name in names}
        parts, places = [], []
        for owner in np.unique(owners).tolist():
            at = np.flatnonzero(owners == owner)
            parts.append(self._group(owner, tuple(names)).take(pa.array(found[at] - self._ends[owner])))
            places.append(at)
        back = np.argsort(np.concatenate(places), kind="stable")
        table = pa.concat_tables(parts).take(pa.array(back))
        return {name: _values(table[name].combine_chunks()) for name in names}

    def _group(self, number: int, columns: tuple[str, ...]) -> pa.Table:
        key = (number, columns)
        if key not in self._kept:
            path, group = self._groups[number]
            try:
                with pq.ParquetFile(path) as file:
                    self._kept[key] = file.read_row_group(group, columns=list(columns))
            except (OSError, pa.ArrowException) as error:
                raise damaged(path, str(error)) from None
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _values(array: pa.Array) -> Column:
    kind = array.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if is_number and not array.null_count:
        numbers: np.ndarray = array.to_numpy(zero_copy_only=False)
        return numbers
    values: list[Any] = array.to_pylist()
    return values
