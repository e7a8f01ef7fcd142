"""Reads lines of JSON: the text is found under the usual names, and only the fields that are needed are decoded.

A line is a record; its place is the byte at which it begins, in the file as it lies there or, where that is packed, unpacked. A
file of plain lines is read in ranges: a line belongs to the range in which it begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from gyral.curate.readers import File, Options, Part
from gyral.curate.readers.declared import by_path, language_code
from gyral.curate.readers.forms import by_name
from gyral.curate.readers.packed import CHUNK_BYTES, Damaged, chunks
from gyral.curate.readers.rows import CORRUPT, EMPTY, NO_TEXT_FIELD, TOO_LARGE, UNREADABLE, Row, first_folder, host, in_batches

TEXT_FIELDS = ("text", "content", "raw_content", "body", "document", "markdown", "article")
HTML_FIELDS = ("html", "raw_html")
URL_FIELDS = ("url", "source_url", "uri", "meta.url", "metadata.url", "metadata.WARC-Target-URI")
LANGUAGE_FIELDS = ("language", "lang", "meta.language", "metadata.language")
_LINE_OVERHEAD = 2
"""A line may have this many times the bytes of the largest document: escapes and other fields."""


class Found(NamedTuple):
    """What a record holds: text or HTML, address and language."""

    text: str | None
    html: str | None
    url: str | None
    language: str | None


def read(part: Part) -> Iterator[pa.RecordBatch]:
    """Read the lines of a part's files, or those that begin in its range of one file."""
    decode = decoder(part.options)
    return in_batches(row for file in part.files for row in _rows(file, part, decode))


def decoder(options: Options) -> Callable[[bytes], Found | None]:
    """What turns a line into what it holds; None for a line that is no JSON object."""
    texts = (options.text,) if options.text else TEXT_FIELDS
    urls = (options.url,) if options.url else URL_FIELDS
    languages = (options.language,) if options.language else LANGUAGE_FIELDS
    tops = sorted({name.partition(".")[0] for name in (*texts, *HTML_FIELDS, *urls, *languages)})
    places = {name: f"field_{number}" for number, name in enumerate(tops)}
    fields = [(place, Any, msgspec.field(name=name, default=None)) for name, place in places.items()]
    decode = msgspec.json.Decoder(msgspec.defstruct("Line", fields, gc=False)).decode

    def first(line: Any, names: tuple[str, ...]) -> str | None:
        for name in names:
            top, _, inner = name.partition(".")
            value = getattr(line, places[top])
            while inner and isinstance(value, dict):
                top, _, inner = inner.partition(".")
                value = value.get(top)
            if isinstance(value, str) and not inner:
                return value
        return None

    def found(line: bytes) -> Found | None:
        try:
            record = decode(line)
            text = first(record, texts)
            html = first(record, HTML_FIELDS) if text is None and not options.text else None
            return Found(text, html, first(record, urls), first(record, languages))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None

    def lenient(line: bytes) -> Found | None:
        return found(line) or found(_clean(line))

    return lenient


def _clean(line: bytes) -> bytes:
    """A line that strict decoding refused, with what is no UTF-8 and lone surrogates replaced; empty where it is no JSON."""
    try:
        return json.dumps(json.loads(line.decode("utf-8", "replace")), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return b""


def _rows(file: File, part: Part, decode: Callable[[bytes], Found | None]) -> Iterator[Row]:
    form = by_name(file.path)
    packed = form.packed if form else ""
    name, limit = part.prefix + file.path, part.options.max_document_bytes
    folder, place = first_folder(name), by_path(file.path)
    try:
        for offset, line in lines(Path(part.root) / file.path, packed, part.begin, part.end, _LINE_OVERHEAD * limit):
            if line is None:
                yield Row(name, offset, "text", None, folder, None, None, None, TOO_LARGE)
                continue
            if line.isspace():
                continue
            yield _row(name, offset, decode(line), folder, place, limit)
    except Damaged:
        yield Row(name, -1, "text", None, folder, None, None, None, CORRUPT)
    except OSError:
        yield Row(name, -1, "text", None, folder, None, None, None, UNREADABLE)


def _row(name: str, offset: int, found: Found | None, folder: str | None, place: str | None, limit: int) -> Row:
    if found is None:
        return Row(name, offset, "text", None, folder, None, None, None, CORRUPT)
    text, html, url, language = found
    body = html if text is None else text
    rejected = None
    if body is None:
        rejected = NO_TEXT_FIELD
    elif not body:
        rejected = EMPTY
    elif len(body) > limit:
        rejected, text, html = TOO_LARGE, None, None
    declared = language_code(language) or place
    raw = html.encode() if html else None
    return Row(
        name, offset, "html" if html is not None else "text", url, host(url) or folder, declared, raw, text or None, rejected
    )


def lines(path: Path, packed: str, begin: int, end: int, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines with the byte each begins at, in ascending order; those that begin at or after `begin` and before `end` (-1: all).

    A line longer than `limit` is passed over and comes as None.
    """
    source = chunks(path, packed) if not begin else _from(path, begin - 1)
    offset, held, skipping = (begin - 1, b"", False) if begin else (0, b"", False)
    first = bool(begin)
    for chunk in source:
        block = held + chunk if held else chunk
        cut = block.rfind(b"\n") + 1
        if not cut:
            if len(block) > limit:
                if not skipping and not first:
                    if end >= 0 and offset >= end:
                        return
                    yield offset, None
                skipping, held, offset = True, b"", offset + len(block)
            else:
                held = block
            continue
        for line in block[:cut].split(b"\n")[:-1]:
            if first or skipping:
                first = skipping = False
            elif end >= 0 and offset >= end:
                return
            elif line:
                yield offset, line
            offset += len(line) + 1
        held = block[cut:]
    if held and not first and not skipping and (end < 0 or offset < end):
        yield offset, held


def _from(path: Path, place: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(place)
        while piece := file.read(CHUNK_BYTES):
            yield piece
