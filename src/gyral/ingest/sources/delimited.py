"""CSV and its relatives: every line becomes a row of text or a bad row with its bytes; none is lost, none fails the rest.

Arrow's reader does the work. Where it gives up, for a quote that is never closed or a line longer than its block, a careful
reader goes on behind the rows already given. Columns are read as bytes and
decoded here, so one byte that is not UTF-8 costs its row and not the file.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from gyral.ingest.sources import BadRow, Rows

NULLS = ("", "NULL", "null", "NaN", "nan")
BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 16 << 20
MAX_QUOTED_LINES = 200
"""A quoted field with more line breaks than this is a stray quote: the line is read as if quotes meant nothing."""
UTF8, WINDOWS = "utf-8", "cp1252"

Open = Callable[[], "io.BufferedIOBase | pa.NativeFile"]


class Dialect(NamedTuple):
    """How a file is written: names of its columns (made unique), what separates them, how text is encoded, lines of header."""

    columns: list[str]
    delimiter: str
    encoding: str
    num_header_lines: int = 1


class EncodingGuess:
    """Tells UTF-8 with a few broken bytes from the one-byte encodings of old exports, block by block."""

    def __init__(self) -> None:
        self._valid = self._invalid = 0

    def see(self, block: bytes) -> None:
        """Count what is and what is not UTF-8 beyond ASCII; a character cut by the end of a block is noise."""
        if not block.isascii():
            text = block.decode(UTF8, "replace")
            invalid = text.count("\ufffd")
            self._invalid += invalid
            self._valid += len(text) - len(text.encode("ascii", "ignore")) - invalid

    @property
    def encoding(self) -> str:
        return WINDOWS if self._invalid > self._valid else UTF8


def dialect(first: bytes, encoding: str) -> Dialect:
    """Read the header out of the first bytes of a file."""
    lines = first.removeprefix(codecs.BOM_UTF8).decode(encoding, "replace").splitlines()
    num_blank = next((number for number, line in enumerate(lines) if line.strip()), 0)
    header = lines[num_blank:]
    line = header[0] if header else ""
    delimiter = max("\t;,|", key=line.count) if any(mark in line for mark in "\t;|,") else ","
    reader = csv.reader([f"{each}\n" for each in header], delimiter=delimiter)
    names: list[str] = []
    for name in next(reader, []):
        number = 2
        unique = name
        while unique in names:
            unique, number = f"{name}_{number}", number + 1
        names.append(unique)
    return Dialect(names, delimiter, encoding, num_blank + reader.line_num)


def read(open_file: Open, how: Dialect, batch_rows: int) -> Iterator[Rows]:
    """Yield the rows of a file in order; rows of the wrong length come beside the batch they were met in."""
    good = bad = 0
    try:
        for rows in _in_batches(_fast(open_file, how), how, batch_rows, 0, 0):
            yield rows
            good, bad = rows.first_row + rows.batch.num_rows, rows.first_bad + _unplaced(rows.bad)
    except (pa.ArrowInvalid, _StrayQuote):
        yield from _in_batches(_careful(open_file, how, good, bad), how, batch_rows, good, bad)


class _StrayQuote(Exception):
    """A quoted field goes over lines where it should not: it is none."""


def _unplaced(bad: Sequence[BadRow]) -> int:
    return sum(each.row is None for each in bad)


def _in_batches(
    blocks: Iterator[tuple[pa.RecordBatch, list[BadRow]]], how: Dialect, batch_rows: int, row: int, num_bad: int
) -> Iterator[Rows]:
    for block, bad in blocks:
        for start in range(0, max(block.num_rows, 1), batch_rows):
            batch, broken = _decoded(block.slice(start, batch_rows), how.encoding, row)
            yield Rows(row, batch, [*bad, *broken], num_bad)
            num_bad += len(bad)
            bad = []
            row += batch.num_rows


def _fast(open_file: Open, how: Dialect) -> Iterator[tuple[pa.RecordBatch, list[BadRow]]]:
    waiting: deque[BadRow] = deque()  # filled by the reader's own thread, also for blocks that give no batch

    def skip(row: pacsv.InvalidRow) -> str:
        waiting.append(_wrong_length(row.actual_columns, (row.text or "").encode(UTF8, "surrogateescape")))
        return "skip"

    def taken() -> list[BadRow]:
        rows = [waiting.popleft() for _ in range(len(waiting))]
        if any(b"\n" in row.raw for row in rows):
            raise _StrayQuote
        return rows

    with (
        open_file() as file,
        pacsv.open_csv(
            file,
            read_options=pacsv.ReadOptions(
                block_size=BLOCK_BYTES, use_threads=False, column_names=how.columns, skip_rows=how.num_header_lines
            ),
            parse_options=pacsv.ParseOptions(delimiter=how.delimiter, newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(how.columns, pa.binary()), strings_can_be_null=True, null_values=list(NULLS)
            ),
        ) as reader,
    ):
        for block in reader:
            if any(_has_stray_quote(values) for values in block.columns):
                raise _StrayQuote
            yield block, taken()
    if waiting:
        yield _batch(how.columns, []), taken()


def _careful(open_file: Open, how: Dialect, good: int, bad: int) -> Iterator[tuple[pa.RecordBatch, list[BadRow]]]:
    """What the fast reader would give, behind `good` rows and `bad` bad ones."""
    rows: list[list[bytes]] = []
    waiting: list[BadRow] = []
    with open_file() as opened:
        file = io.BufferedReader(opened) if isinstance(opened, pa.NativeFile) else opened
        lines = _lines(file)
        for _ in range(how.num_header_lines):
            next(lines, None)
        for fields, line in _records(lines, how):
            if len(fields) == len(how.columns):
                good -= 1
                if good < 0:
                    rows.append(fields)
            else:
                bad -= 1
                if bad < 0:
                    waiting.append(_wrong_length(len(fields), line))
            if len(rows) >= 1 << 15 or len(waiting) >= 1 << 15:
                yield _batch(how.columns, rows), waiting
                rows, waiting = [], []
    yield _batch(how.columns, rows), waiting


def _has_stray_quote(values: pa.Array) -> bool:
    if (pc.max(pc.binary_length(values)).as_py() or 0) <= MAX_QUOTED_LINES:
        return False
    return (pc.max(pc.count_substring(values, "\n")).as_py() or 0) > MAX_QUOTED_LINES


def _lines(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Lines without their ends, whichever of the three ends they have."""
    rest = b""
    while block := file.read(1 << 20):
        if (rest + block[:1])[-2:] == b"\r\n" and rest:  # an end that was cut in two
            rest, block = rest[:-1] + b"\n", block[1:]
        *whole, rest = (rest + block).splitlines(keepends=True) or [b""]
        for line in whole:
            yield line.rstrip(b"\r\n")
        while len(rest) > MAX_LINE_BYTES:
            yield rest[:MAX_LINE_BYTES]
            rest = rest[MAX_LINE_BYTES:]
    if rest:
        yield rest.rstrip(b"\r\n")


def _records(lines: Iterator[bytes], how: Dialect) -> Iterator[tuple[list[bytes], bytes]]:
    """Split lines into fields; a quoted field may go over several lines, a stray quote may not."""
    again: deque[bytes] = deque()
    delimiter = how.delimiter.encode()
    while (line := again.popleft() if again else next(lines, None)) is not None:
        if not line:
            continue
        if b'"' not in line:
            yield line.split(delimiter), line
            continue
        used: list[bytes] = []

        def more(first: bytes = line, used: list[bytes] = used) -> Iterator[str]:
            yield first.decode("latin-1") + "\n"  # one byte is one character: nothing is decoded yet
            while len(used) < MAX_QUOTED_LINES and (following := again.popleft() if again else next(lines, None)) is not None:
                used.append(following)
                yield following.decode("latin-1") + "\n"

        try:
            fields = next(csv.reader(more(), delimiter=how.delimiter, strict=True))
            yield [field.encode("latin-1") for field in fields], b"\n".join([line, *used])
        except (csv.Error, StopIteration):
            again.extendleft(reversed(used))
            yield line.split(delimiter), line


def _wrong_length(num_columns: int, line: bytes) -> BadRow:
    return BadRow(None, f"wrong_number_of_columns:{num_columns}", line)


def _batch(columns: Sequence[str], rows: Sequence[Sequence[bytes]]) -> pa.RecordBatch:
    nulls = {each.encode() for each in NULLS}
    arrays = [
        pa.array([None if row[number] in nulls else row[number] for row in rows], pa.binary()) for number in range(len(columns))
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _decoded(block: pa.RecordBatch, encoding: str, first_row: int) -> tuple[pa.RecordBatch, list[BadRow]]:
    """Bytes to text; rows that are not text in this encoding stay as rows of nulls, and are told with their bytes."""
    broken = np.zeros(block.num_rows, dtype=bool)
    arrays = []
    for values in block.columns:
        try:
            if encoding != UTF8:
                raise pa.ArrowInvalid("decoded value by value")
            arrays.append(values.cast(pa.string()))
        except pa.ArrowInvalid:
            encoded = values.dictionary_encode()
            texts = [_text(value, encoding) for value in encoded.dictionary.to_pylist()]
            failed = np.array([text is None for text in texts], dtype=bool)
            index = encoded.indices.fill_null(0).to_numpy() if len(texts) else np.zeros(len(values), dtype=np.int64)
            if len(texts):
                broken |= failed[index] & values.is_valid().to_numpy(zero_copy_only=False)
            arrays.append(pa.array(texts, pa.string()).take(encoded.indices))
    bad = []
    for row in np.flatnonzero(broken):
        raw = b"\t".join(values[int(row)].as_py() or b"" for values in block.columns)
        bad.append(BadRow(first_row + int(row), "bad_encoding", raw))
    return pa.RecordBatch.from_arrays(arrays, names=block.schema.names), bad


def _text(value: bytes, encoding: str) -> str | None:
    try:
        return value.decode(encoding)
    except UnicodeDecodeError:
        return None if encoding == UTF8 else value.decode("latin-1")
