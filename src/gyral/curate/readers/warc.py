"""Reads WARC and WET: HTTP responses that hold HTML or text, and what was converted to text already.

A compressed WARC is members of gzip one behind the other, so it is read from the middle: a range begins at the first member
whose bytes unpack to `WARC/`. The same search goes on behind a corrupt record, so one costs itself and not the file. The place
of a record is the byte at which its member begins in the file as it lies there, which is what an index of Common Crawl holds.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from gyral.curate.readers import File, Part
from gyral.curate.readers.bodies import TooLarge, unpacked
from gyral.curate.readers.declared import by_root, language_code
from gyral.curate.readers.forms import by_head, by_name, head_of
from gyral.curate.readers.rows import CORRUPT, EMPTY, TOO_LARGE, UNREADABLE, Row, first_folder, host, in_batches
from gyral.curate.text.charset import is_utf8, python_name

_HTML = ("text/html", "application/xhtml+xml")
_GZIP_MAGIC, _PLAIN_MAGIC = b"\x1f\x8b\x08", b"WARC/1."
_SEARCH_BYTES = 1 << 20
_OVERHEAD = 4
"""What a record may have beside its document: headers, and the packing of a response."""


def read(part: Part) -> Iterator[pa.RecordBatch]:
    """Read the records of a part's files, or those whose member begins in its range of one file."""
    return in_batches(row for file in part.files for row in _rows(file, part))


def _rows(file: File, part: Part) -> Iterator[Row]:
    path, name = Path(part.root) / file.path, part.prefix + file.path
    form = by_name(file.path) or by_head(head_of(path))
    packed = form.packed if form else ""
    folder, end = first_folder(name), file.size_bytes if part.end < 0 else part.end
    try:
        with open(path, "rb") as stream:
            at = next_record(stream, part.begin, end, packed) if part.begin else 0
            while at is not None and at < end:
                try:
                    yield from _records(path, packed, at, end, name, folder, part)
                    return
                except _Broken as broken:
                    if broken.at < end:
                        yield Row(name, broken.at, "html", None, folder, None, None, None, CORRUPT)
                    at = next_record(stream, broken.at + 1, end, packed)
    except OSError:
        yield Row(name, -1, "html", None, folder, None, None, None, UNREADABLE)


class _Broken(Exception):
    """The record at `at` cannot be read."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


def next_record(stream: IO[bytes], begin: int, end: int, packed: str) -> int | None:
    """Byte of the first record that begins at `begin` or behind it and before `end`; None where there is none.

    A member of gzip is one when it unpacks to `WARC/`; zstd cannot be entered in the middle.
    """
    magic, at = (_GZIP_MAGIC if packed == ".gz" else _PLAIN_MAGIC), begin
    while at < end and packed != ".zst":
        stream.seek(at)
        block = stream.read(_SEARCH_BYTES)
        place = block.find(magic)
        while place >= 0:
            if at + place >= end:
                return None
            if _is_record(stream, at + place, packed):
                return at + place
            place = block.find(magic, place + 1)
        if len(block) < _SEARCH_BYTES:
            return None
        at += len(block) - len(magic) + 1
    return None


def _is_record(stream: IO[bytes], at: int, packed: str) -> bool:
    stream.seek(at if packed else max(0, at - 4))
    if not packed:
        return at == 0 or stream.read(4) == b"\r\n\r\n"
    try:
        return zlib.decompressobj(31).decompress(stream.read(4096), 16).startswith(b"WARC/")
    except zlib.error:
        return False


def _end_of(stream: IO[bytes], at: int, packed: str) -> int:
    """Byte behind the record that begins at `at`; of one that is cut off, its own byte."""
    stream.seek(at)
    if packed == ".gz":
        member, place = zlib.decompressobj(31), at
        try:
            while piece := stream.read(_SEARCH_BYTES):
                place += len(piece)
                while piece and not member.eof:
                    member.decompress(piece, 4 * _SEARCH_BYTES)
                    piece = member.unconsumed_tail
                if member.eof:
                    return place - len(member.unused_data)
        except zlib.error:
            pass
        return at
    head = stream.read(_SEARCH_BYTES)
    told = re.search(rb"\r\ncontent-length:\s*(\d{1,15})\r\n", head, re.IGNORECASE)
    close = head.find(b"\r\n\r\n")
    return at + close + 4 + int(told.group(1)) + 4 if told and close >= 0 and not packed else at


def _records(path: Path, packed: str, begin: int, end: int, name: str, folder: str | None, part: Part) -> Iterator[Row]:
    """Documents of the records from a byte on; `_Broken` where one cannot be read.

    A document is handed out when the record behind it was met, since a checksum that differs is told no earlier.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    at = good = begin - 1
    types = (WarcRecordType.response, WarcRecordType.conversion, WarcRecordType.resource)
    held: Row | None = None
    with open(path, "rb") as stream:
        stream.seek(begin)
        try:
            for record in ArchiveIterator(stream, parse_http=False, fsspec_args=False):
                if held is not None:
                    yield held
                    held = None
                at = record.stream_pos
                if at >= end:
                    return
                held = _row(record, at, name, folder, part) if record.record_type in types else None
                good = at
        except (OSError, ValueError, RuntimeError, EOFError, UnicodeError):
            bad = at if at > good else begin if good < begin else _end_of(stream, good, packed)
            if held is not None and bad != good:
                yield held
            raise _Broken(bad) from None
        if packed == ".gz":
            bad = _cut_off(stream, max(begin, good), end)
            if held is not None and bad != good:
                yield held
            if bad < end:
                raise _Broken(bad)
        elif held is not None:
            yield held


def _cut_off(stream: IO[bytes], at: int, end: int) -> int:
    """Byte of the last member where a file ends in it; the end where it is whole. One cut off in its headers says no word."""
    while at < end:
        behind = _end_of(stream, at, ".gz")
        if behind == at:
            return at
        at = behind
    return end


def _row(record: Any, at: int, name: str, folder: str | None, part: Part) -> Row | None:
    """A record as a row; None for what is no document: a picture, a redirection, an error page."""
    limit = part.options.max_document_bytes
    url = record.headers.get("WARC-Target-URI")
    kind, charset = record.headers.get("Content-Type") or "", None
    domain = host(url) or folder
    if record.content_length > _OVERHEAD * limit:
        return Row(name, at, "html", url, domain, None, None, None, TOO_LARGE)
    http = None
    if record.is_http:
        record.parse_http(quirks_mode=True)
        http = record.http_headers
        if http is None or http.status_code != 200:
            return None
        kind, charset = record.http_content_type or "", record.http_charset
    kind = kind.partition(";")[0].strip().lower()
    media = "html" if kind in _HTML else "text" if kind == "text/plain" else None
    if media is None and kind:
        return None
    body, left = record.reader.read(limit + 1), record.content_length
    try:
        if len(body) > limit:
            raise TooLarge
        if len(body) < left:
            raise EOFError("the record is cut off")
        if http and (http.get("Content-Encoding") or http.get("Transfer-Encoding")):
            body = unpacked(body, http, limit)
    except TooLarge:
        return Row(name, at, media or "html", url, domain, None, None, None, TOO_LARGE)
    if media is None:
        form = by_head(body[:4096])
        if form is None or form.media not in ("html", "text"):
            return None
        media = form.media
    if not body:
        return Row(name, at, media, url, domain, None, None, None, EMPTY)
    declared = by_root(body, media) or language_code(_header_language(record))
    return Row(name, at, media, url, domain, declared, _recoded(body, charset), None, None)


def _header_language(record: Any) -> str | None:
    """Language by WET's header or the HTTP header, the first of several."""
    told = record.headers.get("WARC-Identified-Content-Language")
    if not told and record.http_headers is not None:
        told = record.http_headers.get("Content-Language")
    return told.partition(",")[0] if told else None


def _recoded(body: bytes, charset: str | None) -> bytes:
    """A body as UTF-8 behind a mark, where the header names another charset and the bytes are no UTF-8 already."""
    name = python_name(charset) if charset else None
    if name is None or name == "utf-8" or body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return body
    if not name.startswith("iso2022") and not name.startswith("utf-16") and is_utf8(body):
        return body
    return b"\xef\xbb\xbf" + body.decode(name, "replace").encode("utf-8", "replace")
