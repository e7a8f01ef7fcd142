"""Items of evaluation sets, as files hold them: a question with its choices and answer is one text.

`.txt` has an item a line, `.jsonl` one an object, `.parquet` one a row. The text of an item is its `text`, where it has one,
else all its texts, in the order in which they stand there, lists and what is nested included: benchmarks name their fields as
they like. Its name is its `id`, else its number from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from gyral.errors import InputError

ENDINGS = (".jsonl", ".txt", ".parquet")


class Item(NamedTuple):
    """What is looked for, and what it is called within its set."""

    id: str
    text: str


def items_of(name: str, path: Path) -> list[Item]:
    """Read the items of a set.

    Raises
    ------
    InputError : the file is not there, is of another form, or a line of it cannot be read.
    """
    if path.suffix not in ENDINGS:
        raise InputError(
            f"the evaluation set `{name}` is of no known form",
            where=str(path),
            hint=f"its name must end in {', '.join(ENDINGS)}",
        )
    data = bytes_of(name, path)
    if path.suffix == ".txt":
        lines = data.decode("utf-8", "replace").splitlines()
        return [Item(str(number), line) for number, line in enumerate(lines) if line.strip()]
    rows = _rows(path, data) if path.suffix == ".parquet" else _objects(path, data)
    return [_item(number, row) for number, row in enumerate(rows)]


def bytes_of(name: str, path: Path) -> bytes:
    """A file of a set.

    Raises
    ------
    InputError : it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        hint = "`decontaminate.sets.NAME` is a file of text, JSON lines or Parquet"
        raise InputError(f"the evaluation set `{name}` cannot be read", where=str(path), why=why, hint=hint) from None


def _objects(path: Path, data: bytes) -> Iterator[Any]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                yield msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InputError(
                    "a line is not JSON",
                    where=f"{path}:{number}",
                    why=str(error),
                    hint="one object a line; plain text ends in `.txt`",
                ) from None


def _rows(path: Path, data: bytes) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        yield from pq.read_table(pa.py_buffer(data)).to_pylist()
    except pa.ArrowException as error:
        raise InputError(
            f"`{path.name}` is not a Parquet file", where=str(path), why=str(error), hint="fetch it again"
        ) from None


def _item(number: int, row: Any) -> Item:
    names = row if isinstance(row, dict) else {}
    own = names.get("id")
    text = names.get("text")
    if not isinstance(text, str):
        text = "\n".join(_texts({key: value for key, value in names.items() if key != "id"} if names else row))
    return Item(str(number if own is None else own), text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
