"""Tar files of samples, as WebDataset lays them out: consecutive members whose names agree up to the first dot are one sample.

Own reading, not `tarfile`: what is wanted is only names, sizes and bytes, a damaged header must cost one sample and not the
rest of a shard, and nothing a header says may make room or reach the file system. Links, devices and folders are passed over;
names are labels. After a damaged header the next block whose checksum holds begins a member again.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gyral.curate.readers import Part
from gyral.curate.readers.pictures import (
    CAPTION_FIELDS,
    ENDINGS,
    MAX_CAPTION_BYTES,
    MAX_PICTURE_BYTES,
    NO_PICTURE,
    captions_of,
    picture_row,
    with_captions,
)
from gyral.curate.readers.rows import CORRUPT, TOO_LARGE, UNREADABLE, Row, host

BLOCK = 512
MAX_JSON_BYTES = 1 << 20
MAX_UNPACKED, MAX_RATIO = 1 << 28, 50
"""A packed shard is read no further than this many bytes, or this many times its own: pictures hardly shrink, bombs do."""
_FILE_TYPES = (b"0", b"\0", b"7")
_LONG_NAME, _PAX = b"L", b"x"
_SKIP_BYTES = 1 << 20


class Member(NamedTuple):
    """A member: the byte of its header, its name, and its bytes; or why there are none. A damaged place has no name."""

    place: int
    name: str
    data: bytes
    rejected: str | None = None


def read(part: Part) -> Iterator[Row]:
    """Rows of a shard."""
    file = part.files[0]
    path = Path(part.root) / file.path
    domain = file.path.partition("/")[0] if "/" in file.path else None
    packed = path.suffix in (".gz", ".tgz")
    limit = max(MAX_UNPACKED, MAX_RATIO * file.size_bytes) if packed else 1 << 62
    key, sample = "", dict[str, Member]()
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            for member in members(stream, limit):
                name, ending = _parts(member.name)
                if name != key or not member.name:
                    yield from _sample(file.path, domain, sample)
                    key, sample = name, {}
                if not member.name:
                    yield picture_row(file.path, member.place, domain=domain, rejected=member.rejected)
                else:
                    sample.setdefault(ending, member)
            yield from _sample(file.path, domain, sample)
    except OSError:
        yield picture_row(file.path, -1, domain=domain, rejected=UNREADABLE)


def members(stream: Any, limit: int) -> Iterator[Member]:
    """Members that can be part of a sample, in order; a run of damaged blocks is one without a name.

    Parameters
    ----------
    stream : an open file, from its beginning.
    limit : bytes of it that are read, at most.
    """
    place, name, lost = 0, "", False
    try:
        while header := stream.read(BLOCK):
            at, place = place, place + len(header)
            size = _size(header) if len(header) == BLOCK else None
            if size is None or at + size > limit:
                if not lost:
                    yield Member(at, "", b"", CORRUPT if size is None else TOO_LARGE)
                if size is not None:
                    return
                lost, name = True, ""
                continue
            lost, kind = False, header[156:157]
            this = name or _name(header)
            most = _most(this, kind)
            data = stream.read(size) if size <= most else b""
            if not _skip(stream, -(-size // BLOCK) * BLOCK - len(data)) and len(data) < size:
                yield Member(at, "", b"", CORRUPT)
                return
            place += -(-size // BLOCK) * BLOCK
            if kind == _LONG_NAME:
                name = data.rstrip(b"\0").decode("utf-8", "replace")
            elif kind == _PAX:
                name = _pax_path(data) or name
            else:
                if most and kind in _FILE_TYPES:
                    yield Member(at, this, data, None if size <= most else TOO_LARGE)
                name = ""
    except (OSError, EOFError, zlib.error):
        yield Member(place, "", b"", CORRUPT)


def _most(name: str, kind: bytes) -> int:
    """Bytes that are read of a member; 0: it is of no use here."""
    if kind in (_LONG_NAME, _PAX):
        return MAX_JSON_BYTES
    ending = _parts(name)[1]
    return MAX_PICTURE_BYTES if ending in ENDINGS else MAX_JSON_BYTES if ending in (".txt", ".json") else 0


def _parts(name: str) -> tuple[str, str]:
    """`a/b.c/001.seg.PNG` → `a/b.c/001` and `.seg.png`."""
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _size(header: bytes) -> int | None:
    """Size of a member, 0 for the zeros at the end; None where the header's checksum does not hold or the size is none."""
    if not header.strip(b"\0"):
        return 0
    try:
        told = int(header[148:156].strip(b"\0 ") or b"x", 8)
        if told != sum(header[:148]) + 8 * 32 + sum(header[156:]):
            return None
        is_binary = header[124] & 0x80  # GNU's, for 8 GiB and more
        size = int.from_bytes(header[125:136], "big") if is_binary else int(header[124:136].strip(b"\0 ") or b"0", 8)
        # Links and folders have no bytes, whatever they say.
        return None if size < 0 else 0 if header[156:157] in b"123456" else size
    except ValueError:
        return None


def _name(header: bytes) -> str:
    name, prefix = header[:100].partition(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _pax_path(data: bytes) -> str:
    while data:
        length = data.partition(b" ")[0]
        if not length.isdigit() or len(length) > 9 or not 0 < int(length) <= len(data):
            return ""
        key, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "replace")
        data = data[int(length) :]
    return ""


def _skip(stream: Any, size: int) -> bool:
    """Read over some bytes; False where there are fewer."""
    while size > 0:
        piece = len(stream.read(min(size, _SKIP_BYTES)))
        if not piece:
            return False
        size -= piece
    return True


def _sample(path: str, domain: str | None, sample: dict[str, Member]) -> Iterator[Row]:
    """Rows of a sample, members by ending: its first picture with the captions of `.txt`, else of `.json`."""
    if not sample:
        return
    picture = next((member for ending, member in sample.items() if ending in ENDINGS), None)
    text, described = sample.get(".txt"), sample.get(".json")
    fields = _fields(described.data) if described else {}
    texts = [text.data[:MAX_CAPTION_BYTES].decode("utf-8-sig", "replace")] if text else []
    if not any(each.strip() for each in texts):
        texts = captions_of(next((fields[field] for field in CAPTION_FIELDS if fields.get(field)), None))
    url = fields["url"] if isinstance(fields.get("url"), str) else None
    first = picture or next(iter(sample.values()))
    rejected = first.rejected if picture else NO_PICTURE
    raw = first.data if picture and not rejected else None
    row = picture_row(path, first.place, url=url, domain=host(url) or domain, raw=raw, rejected=rejected)
    yield from with_captions(row, [each[:MAX_CAPTION_BYTES] for each in texts])


def _fields(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
