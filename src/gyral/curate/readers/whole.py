"""Reads files that are one document each: HTML, Mallard, DocBook and plain text, packed or not.

13,131 pages of 4 kB are read at the pace of the system calls: open, read to the end, close, and a look at the first bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from gyral.curate.readers import File, Part
from gyral.curate.readers.declared import by_path, by_root
from gyral.curate.readers.forms import HEAD_BYTES, by_head, by_name, xml_form
from gyral.curate.readers.packed import Damaged, read_bounded
from gyral.curate.readers.rows import CORRUPT, EMPTY, TOO_LARGE, UNREADABLE, Row, first_folder, in_batches


def read(part: Part) -> Iterator[pa.RecordBatch]:
    """Read the files of a part, one row each, in their order."""
    root = Path(part.root)
    return in_batches(_row(root, file, part) for file in part.files)


def _row(root: Path, file: File, part: Part) -> Row:
    form = by_name(file.path)
    media, packed = (form.media, form.packed) if form else ("", "")
    name, domain, limit = part.prefix + file.path, first_folder(part.prefix + file.path), part.options.max_document_bytes
    if file.size_bytes > limit:
        return Row(name, -1, media or "text", None, domain, None, None, None, TOO_LARGE)
    try:
        raw = read_bounded(root / file.path, packed, limit)
    except Damaged:
        return Row(name, -1, media or "text", None, domain, None, None, None, CORRUPT)
    except OSError:
        return Row(name, -1, media or "text", None, domain, None, None, None, UNREADABLE)
    if not media and raw:
        inner = xml_form(raw[:HEAD_BYTES]) if form else by_head(raw[:HEAD_BYTES])
        media = inner.media if inner else "text"
    rejected = TOO_LARGE if raw is None else EMPTY if not raw else None
    declared = (by_root(raw, media) if raw else None) or by_path(file.path)
    return Row(name, -1, media or "text", None, domain, declared, raw or None, None, rejected)
