"""Places that events come from, by URI scheme."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from gyral import plugins


class BadRow(NamedTuple):
    """A row that could not even be split into columns; `row` is its number when it holds a (null) place in the batch."""

    row: int | None
    reason: str
    raw: bytes


class Rows(NamedTuple):
    """A batch as the source has it: `first_row` counts the rows before it, `first_bad` the bad ones without a place."""

    first_row: int
    batch: pa.RecordBatch
    bad: list[BadRow]
    first_bad: int = 0


class Source(Protocol):
    """A finite place that events come from; reading it twice gives the same rows."""

    name: str
    digest: str
    size_bytes: int
    num_rows: int | None
    columns: list[str]

    def batches(self, batch_rows: int) -> Iterator[Rows]: ...


def open_source(uri: str, root: Path, note: Callable[[str], None]) -> Source:
    """Open a source by its URI: `pip:…` and other schemes by their plug-in, everything else is a file below the working folder.

    Parameters
    ----------
    note : told what takes long, such as a fetch.

    Raises
    ------
    InputError : the source is missing, empty or of no known kind.
    """
    scheme = re.match(r"([a-z][a-z0-9+_-]+):", uri)
    name = scheme.group(1) if scheme and scheme.group(1) in plugins.names("source") else "file"
    source: Source = plugins.find("source", name)(uri, root, note)
    return source
