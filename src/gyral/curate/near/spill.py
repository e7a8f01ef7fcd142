"""Records in partitions: in memory while they are few, on disk from then on, by one code path.

A run is some records sorted by partition; a partition is read back as its slices of all runs. So a run is written in one piece,
a partition is read by one read a run, and one file a column is open, whatever the number of partitions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np


class Spill:
    """Columns of records in partitions.

    Parameters
    ----------
    folder, name : where the files go, once there are any.
    dtypes : of the columns.
    memory_bytes : of records kept in memory.
    """

    def __init__(self, folder: Path, name: str, dtypes: Sequence[Any], memory_bytes: int) -> None:
        self.num_records = 0
        self._dtypes = [np.dtype(each) for each in dtypes]
        self._paths = [folder / f"{name}.{number}" for number in range(len(dtypes))]
        self._memory_bytes = memory_bytes
        self._kept: list[tuple[np.ndarray, list[np.ndarray]]] = []
        self._written: list[tuple[np.ndarray, int]] = []
        self._files: list[IO[bytes]] = []
        self._num_written = 0

    def add(self, starts: np.ndarray, *columns: np.ndarray) -> None:
        """Take a run: records of partition p lie from `starts[p]` to `starts[p + 1]`."""
        self.num_records += len(columns[0])
        self._kept.append(
            (starts, [np.ascontiguousarray(each, kind) for each, kind in zip(columns, self._dtypes, strict=True)])
        )
        kept = sum(column.nbytes for _, run in self._kept for column in run)
        if kept > self._memory_bytes:
            self._flush()

    def read(self, partition: int) -> list[np.ndarray]:
        """The columns of a partition, run after run."""
        slices = [
            [
                self._pread(number, first + int(starts[partition]), int(starts[partition + 1] - starts[partition]))
                for number in self._numbers
            ]
            for starts, first in self._written
        ]
        slices += [[column[starts[partition] : starts[partition + 1]] for column in run] for starts, run in self._kept]
        if not slices:
            return [np.empty(0, kind) for kind in self._dtypes]
        return [np.concatenate(column) for column in zip(*slices, strict=True)]

    def close(self) -> None:
        """Close and remove what was written."""
        for file, path in zip(self._files, self._paths, strict=False):
            file.close()
            path.unlink(missing_ok=True)
        self._files, self._written, self._kept = [], [], []

    @property
    def _numbers(self) -> range:
        return range(len(self._dtypes))

    def _flush(self) -> None:
        if not self._files:
            self._files = [path.open("w+b", buffering=0) for path in self._paths]
        for starts, run in self._kept:
            for file, column in zip(self._files, run, strict=True):
                view = column.data.cast("B")
                while view:
                    view = view[file.write(view) :]
            self._written.append((starts, self._num_written))
            self._num_written += len(run[0])
        self._kept = []

    def _pread(self, number: int, first: int, num: int) -> np.ndarray:
        kind = self._dtypes[number]
        out = np.empty(num, kind)
        view, place = out.data.cast("B"), first * kind.itemsize
        while view:
            read = os.preadv(self._files[number].fileno(), [view], place)
            view, place = view[read:], place + read
        return out


class Column:
    """A growing array of rows: in memory while it is small, then a mapped file.

    Parameters
    ----------
    width : numbers a row; 0: an array of one dimension.
    """

    def __init__(self, path: Path, dtype: Any, width: int, memory_bytes: int) -> None:
        self._path, self._dtype, self._memory_bytes = path, np.dtype(dtype), memory_bytes
        self._shape = (-1, width) if width else (-1,)
        self._kept: list[np.ndarray] = []
        self._kept_bytes = 0
        self._file: IO[bytes] | None = None

    def add(self, rows: np.ndarray) -> None:
        self._kept.append(np.ascontiguousarray(rows, self._dtype).reshape(-1))
        self._kept_bytes += self._kept[-1].nbytes
        if self._kept_bytes > self._memory_bytes:
            self._flush()

    def open(self) -> np.ndarray:
        """All rows; pages of a file that were touched go when the array does."""
        if self._file is None:
            if len(self._kept) != 1:
                self._kept = [np.concatenate(self._kept) if self._kept else np.empty(0, self._dtype)]
            return self._kept[0].reshape(self._shape)
        self._flush()
        return np.memmap(self._path, self._dtype, "r").view(np.ndarray).reshape(self._shape)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
        self._kept, self._file = [], None

    def _flush(self) -> None:
        if self._file is None:
            self._file = self._path.open("wb")
        for rows in self._kept:
            self._file.write(rows.data.cast("B"))
        self._file.flush()
        self._kept, self._kept_bytes = [], 0
