"""Places of documents: a place is cut into parts, and a part is read anywhere, any number of times, with one result.

Parts and their order depend on the names and sizes of files alone, never on the order in which a folder lists them or on the
number of workers; and where a file is added to a folder, most parts stay what they were (a cut falls where a hash of the file's
name says so), so their signals need not be computed again. A large file is read in ranges wherever its form can be entered in
the middle: lines of JSON, row groups of Parquet, members of a compressed WARC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import pyarrow as pa

from gyral.errors import InputError

PART_BYTES = 32 << 20
"""Bytes of a source, as they lie there, in a part; a file that cannot be cut is one part whatever its size."""
BATCH_BYTES = 16 << 20
"""Bytes of `raw` and `text` together in a batch at most, unless one document is larger."""

READERS = {
    "files": "gyral.curate.readers.whole",
    "jsonl": "gyral.curate.readers.jsonl",
    "parquet": "gyral.curate.readers.parquet",
    "warc": "gyral.curate.readers.warc",
    "images": "gyral.curate.readers.pictures",
    "tar": "gyral.curate.readers.pictures",
    "emoji": "gyral.curate.readers.pictures",
    "lake": "gyral.curate.readers.lake",
}
"""Readers, and the module whose `read` each is."""


class Options(msgspec.Struct, frozen=True):
    """What a user may say about reading; it travels with every part, because a part may be read on another machine.

    Attributes
    ----------
    text, url, language : field or column that holds it, `meta.url` for one inside another; empty: the usual names are tried.
    max_document_bytes : a larger record is rejected as `too_large`, and no more than this of it is ever unpacked.
    """

    text: str = ""
    url: str = ""
    language: str = ""
    max_document_bytes: int = 20 << 20


class File(msgspec.Struct, frozen=True):
    """A file of a place: its path below it, with `/`; what tells that it is the same as before."""

    path: str
    size_bytes: int
    stamp: str


class Part(msgspec.Struct, frozen=True):
    """What one worker reads at once: some files, or a range of one (`begin`, `end`: bytes or row groups; 0, -1: all of it).

    `prefix` stands before the paths of its documents instead of `below`, so that those of several sources differ.
    """

    reader: str
    root: str
    files: list[File]
    begin: int = 0
    end: int = -1
    options: Options = Options()
    prefix: str = ""
    below: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes as they lie there; of a range of row groups, its share of the file."""
        whole = sum(file.size_bytes for file in self.files)
        return whole if self.end < 0 else min(self.end - self.begin, whole) if self.reader != "parquet" else PART_BYTES


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


def open_place(uri: str, root: Path, note: Callable[[str], None], kind: str = "", options: Options | None = None) -> Place:
    """Open files, folders or packages as one place of documents.

    Parameters
    ----------
    uri : a file, a folder, or a package: `apt:NAME`, `npm:NAME@VERSION`, `pip:NAME==VERSION`, each with `!/PATH` for what is
        meant inside. Several are separated by blanks; quotes hold a path with blanks together.
    root : what a relative path is relative to.
    note : hears what is fetched, and what is left out.
    kind : `text`, `images` or `pairs`; empty: told by what is there.

    Raises
    ------
    InputError : there is no such place, or nothing in it can be read.
    """
    from gyral.curate.readers.finding import find

    return find(uri, root, note, kind, options or Options())


def read(part: Part) -> Iterator[pa.RecordBatch]:
    """Read a part by the reader it names.

    Raises
    ------
    InputError : there is no such reader.
    """
    if part.reader not in READERS:
        raise InputError(
            f"there is no reader `{part.reader}`", hint=f"readers are {', '.join(f'`{each}`' for each in READERS)}"
        )
    reader: Reader = import_module(READERS[part.reader]).read
    return reader(part)
