"""WebDataset: tars in which the files of a row follow each other and share a name up to the first dot.

A tar has no index: its headers are walked once (about a GB a second from the page cache), and where each member lies is kept in
`.gyral-index.arrow` beside the tars, for as long as their sizes and times are the same; where that cannot be written it is
walked at each start. After that any row is one read a member.

A column is a member's ending (`jpg`, `txt`, `cls`); values are bytes, but endings of text are texts, `json` is decoded and
`cls` is a number, as the library webdataset does it.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from gyral.files import write_atomic
from gyral.packages.archives import Header
from gyral.train.readers.rows import Column, Files, checked, chosen, damaged, digest_of, gathered

INDEX = ".gyral-index.arrow"
NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
TEXTS = ("txt", "text", "transcript")
NUMBERS = ("cls", "cls2", "class", "count", "index", "inx", "id")


class Tars:
    """Rows of the tars of a folder, in the order of their names.

    Raises
    ------
    InputError : a tar is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names = sorted(path.name for path in folder.glob("*.tar"))
        stats = [(folder / name).stat() for name in self._names]
        marks = [f"{name} {stat.st_size} {stat.st_mtime_ns}".encode() for name, stat in zip(self._names, stats, strict=True)]
        self.digest = digest_of(marks)
        table = self._index()
        self._shard, self._offset, self._size = (table[name].to_numpy() for name in ("shard", "offset", "size"))
        endings = table["ending"].combine_chunks()
        self._ending = endings.indices.to_numpy()
        self.columns: tuple[str, ...] = tuple(endings.dictionary.to_pylist())
        rows = table["row"].to_numpy()
        self._begins = np.flatnonzero(np.diff(rows, prepend=-1, append=-1 if not len(rows) else rows[-1] + 1))
        self._files = Files(folder)

    def __len__(self) -> int:
        return max(0, len(self._begins) - 1)

    def read(self, indices: np.ndarray, columns: Sequence[str] | None = None) -> dict[str, Column]:
        """As `Rows.read`; a member that a row lacks is None."""
        names = chosen(columns, self.columns, self.folder)
        rows = []
        for index in checked(indices, len(self), self.folder).tolist():
            row: dict[str, Any] = {}
            for at in range(self._begins[index], self._begins[index + 1]):
                if (ending := self.columns[self._ending[at]]) in names:
                    shard = self._names[self._shard[at]]
                    body = self._files.read(shard, int(self._offset[at]), int(self._size[at]))
                    try:
                        row[ending] = decoded(ending, body)
                    except ValueError as error:  # msgspec's errors are ValueErrors
                        raise damaged(self.folder / shard, f"`{ending}` of row {index:,}: {error}") from None
            rows.append(row)
        return gathered(rows, names)

    def _index(self) -> pa.Table:
        """Where members lie: the kept one, if it is of these tars."""
        path = self.folder / INDEX
        with suppress(OSError, pa.ArrowInvalid, KeyError):
            table = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()
            if (table.schema.metadata or {}).get(b"of") == self.digest.encode():
                return table
        table = scanned(self.folder, self._names).replace_schema_metadata({"of": self.digest})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        with suppress(OSError):  # a folder that is not ours to write to
            write_atomic(path, sink.getvalue().to_pybytes())
        return table


def scanned(folder: Path, names: Sequence[str]) -> pa.Table:
    """One row a member: number of its row, its tar, ending, offset and size.

    Raises
    ------
    InputError : a tar ends in the middle, or is none.
    """
    found: dict[str, list[Any]] = {"row": [], "shard": [], "ending": [], "offset": [], "size": []}
    row, last = -1, None
    for shard, name in enumerate(names):
        path = folder / name
        size, last = path.stat().st_size, None
        try:
            with tarfile.open(path, "r:", tarinfo=Header) as tar:
                for member in tar:
                    match = NAME.match(member.name)
                    if not member.isfile() or match is None or Path(member.name).name.startswith("."):
                        continue
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError(
                            f"`{member.name}` ends at {member.offset_data + member.size:,} of {size:,} bytes"
                        )
                    key, ending = match.groups()
                    row += key != last
                    last = key
                    for column, value in zip(found, (row, shard, ending.lower(), member.offset_data, member.size), strict=True):
                        found[column].append(value)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise damaged(path, str(error)) from None
    types = {"row": pa.int64(), "shard": pa.int32(), "offset": pa.int64(), "size": pa.int64()}
    columns = {name: pa.array(values, types.get(name, pa.string())) for name, values in found.items()}
    return pa.table({**columns, "ending": columns["ending"].dictionary_encode()})


def decoded(ending: str, body: bytes) -> Any:
    """A member's value."""
    kind = ending.rpartition(".")[2]
    if kind in TEXTS:
        return body.decode()
    if kind in NUMBERS:
        return int(body)
    return msgspec.json.decode(body) if kind in ("json", "jsn") else body
