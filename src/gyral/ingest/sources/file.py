"""Files: Parquet, CSV/TSV and JSON lines, plain or compressed (.gz, .zst).

CSV is read as text only: types are decided per value later, so one broken cell costs its row and not the file. JSON lines are
decoded one by one for the same reason (about 1 µs a line); nested values are kept as JSON text.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from gyral.errors import InputError
from gyral.ingest.sources import BadRow, Rows

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_DELIMITED = (".csv", ".tsv", ".txt", ".inter")
_JSON_LINES = (".jsonl", ".ndjson", ".json")
_NULLS = ["", "NULL", "null", "NaN", "nan"]


def open_source(uri: str, root: Path) -> FileSource:
    """Open a file; relative paths count from the working folder, `file:` is allowed."""
    return FileSource(Path(uri.removeprefix("file://").removeprefix("file:")).expanduser())


class FileSource:
    """One file of rows. Its digest covers every byte, so the same content is the same source under any name."""

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self._kind = _kind_of(path)
        if not path.exists():
            raise InputError(f"there is no file `{path}`", where=str(path.absolute().parent), hint=_near(path))
        if path.is_dir():
            raise InputError(f"`{path}` is a folder", hint="name one CSV, Parquet or JSON-lines file")
        self.size_bytes = path.stat().st_size
        if self.size_bytes == 0:
            raise InputError(f"`{path}` is empty", where=str(path), hint="it needs a header and at least one row")
        self.name = name or re.sub(r"[^A-Za-z0-9_-]+", "_", path.name.split(".")[0]) or "source"
        self.digest, self._encoding = self._inspect()
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
        """Digest the bytes, and tell UTF-8 from the one-byte encodings of old exports, in one pass."""
        digest, encoding = hashlib.sha256(), "utf8"
        decoder = codecs.getincrementaldecoder("utf-8")() if self._kind == "csv" and not self._codec else None
        with open(self.path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                if decoder is not None:
                    try:
                        decoder.decode(block)
                    except UnicodeDecodeError:
                        decoder, encoding = None, "latin-1"
        return digest.hexdigest(), encoding

    @property
    def _codec(self) -> str | None:
        return _COMPRESSED.get(self.path.suffix)

    def _columns(self) -> list[str]:
        try:
            if self._kind == "parquet":
                file = pq.ParquetFile(self.path)
                self.num_rows = file.metadata.num_rows
                names = list(file.schema_arrow.names)
            elif self._kind == "csv":
                names = self._header()
            else:
                first = next(self._jsonl(1_000), None)
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
            hint="is it truncated? What was read before this point is kept; mend the file and run the same command again",
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

    def _header(self) -> list[str]:
        with self._open() as file:
            line = file.read(1 << 16).split(b"\n")[0].rstrip(b"\r").removeprefix(codecs.BOM_UTF8)
        text = line.decode("utf-8" if self._encoding == "utf8" else self._encoding, errors="replace")
        self._delimiter = max("\t;,|", key=text.count) if any(mark in text for mark in "\t;|,") else ","
        return next(csv.reader([text], delimiter=self._delimiter), [])

    def _csv(self, batch_rows: int) -> Iterator[Rows]:
        bad: list[BadRow] = []

        def skip(row: pacsv.InvalidRow) -> str:
            bad.append(BadRow(None, f"wrong_number_of_columns:{row.actual_columns}", (row.text or "").encode()))
            return "skip"

        with (
            self._open() as file,
            pacsv.open_csv(
                file,
                read_options=pacsv.ReadOptions(encoding=self._encoding, block_size=4 << 20, use_threads=False),
                parse_options=pacsv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=skip),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(self.columns, pa.string()), strings_can_be_null=True, null_values=_NULLS
                ),
            ) as reader,
        ):
            row = 0
            for block in reader:
                for start in range(0, block.num_rows, batch_rows):
                    batch = block.slice(start, batch_rows)
                    yield Rows(row, batch, list(bad) if start == 0 else [])
                    row += batch.num_rows
                bad.clear()
            if bad:
                empty = pa.RecordBatch.from_pydict(dict.fromkeys(self.columns, pa.array([], pa.string())))
                yield Rows(row, empty, list(bad))

    def _jsonl(self, batch_rows: int) -> Iterator[Rows]:
        decode = msgspec.json.Decoder().decode
        row, first = 0, 0
        objects: list[dict[str, Any]] = []
        bad: list[BadRow] = []
        with self._open() as file:
            for line in io.BufferedReader(file) if isinstance(file, pa.NativeFile) else file:
                text = line.strip()
                if not text:
                    continue
                try:
                    value = decode(text)
                    if not isinstance(value, dict):
                        raise msgspec.DecodeError("not an object")
                    objects.append(value)
                except (msgspec.DecodeError, UnicodeDecodeError):
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
    suffix = Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix
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
