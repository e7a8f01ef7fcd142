"""What a reader of shards gives, and what they share: reads at an offset, of files that may be damaged."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gyral.errors import InputError

MAX_OPEN = 64
"""Files that a reader keeps open."""
Column = np.ndarray | list[Any]
"""Numbers as an array; texts, bytes and arrays as a list."""


class Rows(Protocol):
    """Rows of a folder of shards.

    Attributes
    ----------
    columns : names, in the order of the format.
    digest : sha256 that changes when shards come, go or are made anew: what a training pins.
    """

    columns: tuple[str, ...]
    digest: str

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, columns: Sequence[str] | None = None) -> dict[str, Column]:
        """Some rows, in the order asked for.

        Parameters
        ----------
        indices : integers in [0, len), [B].
        columns : names; None: all.

        Raises
        ------
        InputError : a shard is damaged, an index or a column is not there.
        """


class Files:
    """Files of a folder, opened when they are read first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes at a place.

        Raises
        ------
        InputError : the file is missing, or ends before.
        """
        if name not in self._open:
            try:
                self._open[name] = os.open(self.folder / name, os.O_RDONLY)
            except OSError as error:
                raise damaged(self.folder / name, error.strerror or str(error)) from None
            if len(self._open) > MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(name)
        body = os.pread(self._open[name], size, offset) if size else b""
        if len(body) != size:
            raise damaged(self.folder / name, f"it ends at byte {offset + len(body):,}, before {offset + size:,}")
        return body

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def checked(indices: np.ndarray, num_rows: int, folder: Path) -> np.ndarray:
    """Indices, if all are there."""
    found = np.asarray(indices, np.int64)
    if found.size and (found.min() < 0 or found.max() >= num_rows):
        bad = int(found[(found < 0) | (found >= num_rows)][0])
        raise InputError(f"there is no row {bad:,}", where=str(folder), why=f"there are {num_rows:,}")
    return found


def chosen(columns: Sequence[str] | None, known: Sequence[str], folder: Path) -> list[str]:
    """Columns that are asked for, if all are there."""
    names = list(columns if columns is not None else known)
    if missing := [name for name in names if name not in known]:
        hint = f"there are {', '.join(f'`{name}`' for name in known)}"
        raise InputError(f"there is no column `{missing[0]}`", where=str(folder), hint=hint)
    return names


def gathered(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Column]:
    """Rows → columns."""
    found: dict[str, Column] = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        is_number = bool(values) and all(isinstance(value, bool | int | float | np.number) for value in values)
        found[name] = np.array(values) if is_number else values
    return found


def digest_of(parts: Sequence[bytes]) -> str:
    """Sha256 of some texts."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def damaged(path: Path, why: str) -> InputError:
    """A shard that cannot be used."""
    return InputError(f"the shard `{path.name}` cannot be used", why=why, where=str(path), hint="fetch or make it again")
