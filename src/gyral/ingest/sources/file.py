"""Files: Parquet, CSV/TSV and JSON lines, plain or compressed (.gz, .zst).

CSV is read as text only (`delimited.py`): types are decided per value later, so one broken cell costs its row and not the file.
JSON lines are decoded one by one for the same reason (about 1 µs a line); nested values are kept as JSON text.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from gyral.errors import InputError
from gyral.ingest.sources import BadRow, Rows, delimited

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_DELIMITED = (".csv", ".tsv", ".txt", ".inter")
NAMES_FROM = 50_000
"""JSON lines whose names are the columns; a name that is met later only is kept, but cannot be mapped."""
_JSON_LINES = (".jsonl", ".ndjson", ".json")


def open_source(uri: str, root: Path, note: Callable[[str], None]) -> FileSource:
    """Open a file; relative paths count from the working folder, `file:` is allowed."""
    if re.match(r"[a-z][a-z0-9+]+://", uri) and not uri.startswith("file://"):
        raise InputError(
            f"`{uri}` is not a file",
            hint="fetch it first: files of this machine are read, or of `pip:`, `npm:` and `apt:`",
        )
    return FileSource(Path(uri.removeprefix("file://").removeprefix("file:")).expanduser())


class FileSource:
    """One file of rows. Its digest covers every byte, so the same content is the same source under any name."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        if path.is_dir():
            hint = f"events are one CSV, Parquet or JSON-lines file; documents or pictures: `gyral curate NAME --source {path}`"
            raise InputError(f"`{path}` is a folder", hint=hint)
        self._kind = _kind_of(path)
        if not path.exists():
            raise InputError(f"there is no file `{path}`", where=str(path.absolute().parent), hint=_near(path))
        self.size_bytes = path.stat().st_size
        if self.size_bytes == 0:
            raise InputError(f"`{path}` is empty", where=str(path), hint="it needs a header and at least one row")
        self.digest, self._encoding = self._inspect()
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", path.name.split(".")[0])
        self.name = name or (plain if plain.strip("_") else f"source_{self.digest[:8]}")
        self.num_rows: int | None = None
        self.columns = self._columns()

    def batches(self, batch_rows: int) -> Iterator[Rows]:
        """Yield the rows in file order."""
        read = {"parquet": self._parquet, "csv": self._csv, "jsonl": self._jsonl}[self._kind]
        try:
            yield from read(batch_rows)
        except (pa.ArrowInvalid, pa.ArrowException, OSError, EOFError) as error:
            raise self._unreadable(error) from None

    def _inspect(self) -> tuple[str, str]:
        """Digest the bytes and guess the encoding; a packed file is unpacked once, so that a cut one fails before a row."""
        digest, guess = hashlib.sha256(), delimited.EncodingGuess()
        with open(self.path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                if self._kind == "csv" and not self._codec:
                    guess.see(block)
        if self._codec:
            try:
                with self._open() as packed:
                    while block := packed.read(1 << 20):
                        guess.see(block)
            except (OSError, EOFError) as error:
                raise self._unreadable(error) from None
        return digest.hexdigest(), guess.encoding

    @property
    def _codec(self) -> str | None:
        return _COMPRESSED.get(self.path.suffix.lower())

    def _columns(self) -> list[str]:
        try:
            if self._kind == "parquet":
                file = pq.ParquetFile(self.path)
                self.num_rows = file.metadata.num_rows
                names = list(file.schema_arrow.names)
            elif self._kind == "csv":
                self._dialect = self._read_dialect()
                names = self._dialect.columns
            else:
                with self._open() as file:
                    is_array = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
                self._refuse(
                    is_array, "is one JSON array", f"one object a line is read: `jq -c '.[]' {self.path} > lines.jsonl`"
                )
                first = next(self._jsonl(NAMES_FROM), None)
                names = [name for name in first.batch.schema.names if name] if first else []
        except (pa.ArrowInvalid, pa.ArrowException, OSError, EOFError) as error:
            raise self._unreadable(error) from None
        if not names or self.num_rows == 0:
            raise InputError(f"`{self.path}` has no rows", where=str(self.path), hint="it needs a header and at least one row")
        return names

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(
            f"`{self.path}` cannot be read as {self._kind}",
            why=str(error).split("\n")[0],
            where=str(self.path),
            hint="is it truncated? Mend the file and run the same command again; a mended file is another one: rows of it that "
            "are in the lake already are counted as `duplicate` by curate",
        )

    def _open(self) -> io.BufferedIOBase | pa.NativeFile:
        if self._codec:
            return pa.CompressedInputStream(pa.OSFile(str(self.path)), self._codec)
        return open(self.path, "rb")

    def _parquet(self, batch_rows: int) -> Iterator[Rows]:
        row = 0
        for batch in pq.ParquetFile(self.path).iter_batches(batch_rows):
            yield Rows(row, batch, [])
            row += batch.num_rows

    def _read_dialect(self) -> delimited.Dialect:
        with self._open() as file:
            first = file.read(1 << 16)
        self._refuse(first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)), "is UTF-16", "save it as UTF-8")
        return delimited.dialect(first, self._encoding)

    def _csv(self, batch_rows: int) -> Iterator[Rows]:
        return delimited.read(self._open, self._dialect, batch_rows)

    def _refuse(self, is_so: bool, what: str, hint: str) -> None:
        if is_so:
            raise InputError(f"`{self.path}` {what}", where=str(self.path), hint=hint)

    def _jsonl(self, batch_rows: int) -> Iterator[Rows]:
        decode = msgspec.json.Decoder().decode
        row, first = 0, 0
        objects: list[dict[str, Any]] = []
        bad: list[BadRow] = []
        with self._open() as file:
            for line in io.BufferedReader(file) if isinstance(file, pa.NativeFile) else file:
                text = line.removeprefix(codecs.BOM_UTF8).strip()
                if not text:
                    continue
                try:
                    value = decode(text)
                    if not isinstance(value, dict):
                        raise msgspec.DecodeError("not an object")
                    objects.append(value)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    bad.append(BadRow(row, "bad_json", text))
                    objects.append({})
                row += 1
                if len(objects) >= batch_rows:
                    yield _from_objects(first, objects, bad)
                    first, objects, bad = row, [], []
        if objects:
            yield _from_objects(first, objects, bad)


def _from_objects(first: int, objects: list[dict[str, Any]], bad: list[BadRow]) -> Rows:
    """Make columns of JSON objects; a column of mixed types becomes text, a bad line is a row of nulls."""
    names = dict.fromkeys(name for each in objects for name in each)
    columns: dict[str, pa.Array] = {}
    for name in names:
        values = (each.get(name) for each in objects)
        flat = [msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value for value in values]
        try:
            columns[name] = pa.array(flat)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            columns[name] = pa.array([value if value is None or isinstance(value, str) else str(value) for value in flat])
    return Rows(first, pa.RecordBatch.from_pydict(columns or {"": pa.nulls(len(objects))}), bad)


def _kind_of(path: Path) -> str:
    last = path.suffix.lower()
    suffix = Path(path.stem).suffix.lower() if last in _COMPRESSED else last
    if suffix == ".parquet":
        return "parquet"
    if suffix in _DELIMITED:
        return "csv"
    if suffix in _JSON_LINES:
        return "jsonl"
    raise InputError(
        f"`{path.name}` is of no known kind",
        where=str(path),
        hint="CSV (.csv, .tsv, .txt, .inter), Parquet (.parquet) and JSON lines (.jsonl, .ndjson) are read, also .gz and .zst",
    )


def _near(path: Path) -> str:
    folder = path.parent
    names = sorted(each.name for each in folder.iterdir() if each.is_file())[:8] if folder.is_dir() else []
    return f"files there: {', '.join(names)}" if names else "check the path; it counts from the folder you are in"
