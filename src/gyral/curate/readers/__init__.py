"""Places of documents: a place is cut into parts, and a part is read anywhere, any number of times, with one result.

Parts and their order depend on the names and sizes of files alone, never on the order in which a folder lists them or on the
number of workers; and where a file is added to a folder, most parts stay what they were (a cut falls where a hash of the file's
name says so), so their signals need not be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import pyarrow as pa

PART_BYTES = 32 << 20
"""Bytes of a source, as they lie there, in a part; a file that cannot be cut is one part whatever its size."""
BATCH_BYTES = 16 << 20
"""Bytes of `raw` and `text` together in a batch at most, unless one document is larger."""


class File(msgspec.Struct, frozen=True):
    """A file of a place: its path below it, with `/`; what tells that it is the same as before."""

    path: str
    size_bytes: int
    stamp: str


class Part(msgspec.Struct, frozen=True):
    """What one worker reads at once: some files, or a range of one (`begin`, `end`: bytes or row groups; 0, -1: all of it)."""

    reader: str
    root: str
    files: list[File]
    begin: int = 0
    end: int = -1

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files) if self.end < 0 else self.end - self.begin


class Place(NamedTuple):
    """A place that was opened: what it is called, its parts in canonical order, and what kind of documents it holds."""

    name: str
    kind: str
    parts: list[Part]


class Reader(Protocol):
    """Reads the parts of one form of files; yields batches of the schema `DOCUMENT`, rows in canonical order.

    What cannot be read becomes a row with its reason in `rejected`; nothing that a file holds raises.
    """

    def __call__(self, part: Part) -> Iterator[pa.RecordBatch]: ...


def open_place(uri: str, root: Path, note: Callable[[str], None], kind: str = "") -> Place:
    """Open a file, a folder or a package as a place of documents.

    Parameters
    ----------
    kind : `text`, `images` or `pairs`; empty: told by what is there.

    Raises
    ------
    InputError : there is no such place, or nothing in it can be read.
    """
    raise NotImplementedError


def read(part: Part) -> Iterator[pa.RecordBatch]:
    """Read a part by the reader it names."""
    raise NotImplementedError
