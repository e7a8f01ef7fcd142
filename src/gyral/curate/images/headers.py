"""What a picture says about itself before it is decoded: form, size, frames, alpha, the way it is turned.

The form is told by the first bytes, never by a name. All that a decoder would make room for is known here, so a bomb (a PNG of
100,000 × 100,000 pixels in 1 kB) costs its header and nothing more. No frame but the first is ever looked at: a GIF is cut
after it, so one of 10,000 frames costs no more than one of two. PNG, JPEG, GIF and WebP are known, all else is not supported.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAX_SIDE = 1 << 20
"""Pixels of a side; OpenCV refuses more."""
MAX_SCANS = 100
"""Scans of a progressive JPEG, each of which walks over the whole picture again; encoders write about ten."""

CORRUPT, TRUNCATED, UNSUPPORTED, EMPTY, TOO_LARGE = (
    "corrupt_image",
    "truncated_image",
    "unsupported_image",
    "empty_image",
    "image_too_large",
)
"""Why a picture cannot be used."""

_PNG, _JPEG, _GIF, _RIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"GIF87a", b"GIF89a"), b"RIFF"
_BARE_MARKERS = frozenset([0x01, *range(0xD0, 0xD9)])
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODABLE_FRAMES = frozenset([0xC0, 0xC1, 0xC2])
_ORIENTATION = 0x0112


class Unusable(Exception):
    """A picture that cannot be used; the text is the reason, one of those above."""


class Header(NamedTuple):
    """A picture before it is decoded.

    Attributes
    ----------
    form : `png`, `jpeg`, `gif` or `webp`.
    width, height : pixels as shown, that is, after EXIF has turned it.
    is_animated : there is a second frame.
    has_alpha : some pixels may be transparent.
    end : byte after which a decoder need not look; 0: it takes all. `closing` is what it must then find there.
    """

    form: str
    width: int
    height: int
    is_animated: bool = False
    has_alpha: bool = False
    end: int = 0
    closing: bytes = b""


def read_header(raw: bytes) -> Header:
    """Read the header of a picture.

    Raises
    ------
    Unusable : it is none, or one that must not be decoded.
    """
    if raw.startswith(_PNG):
        read = _png
    elif raw.startswith(_JPEG):
        read = _jpeg
    elif raw.startswith(_GIF):
        read = _gif
    elif raw[:4] == _RIFF and raw[8:12] == b"WEBP":
        read = _webp
    else:
        raise Unusable(UNSUPPORTED)
    try:
        header = read(raw)
    except (struct.error, IndexError):
        raise Unusable(TRUNCATED) from None
    if header.width <= 0 or header.height <= 0:
        raise Unusable(EMPTY)
    if max(header.width, header.height) > MAX_SIDE:
        raise Unusable(TOO_LARGE)
    return header


def _png(raw: bytes) -> Header:
    """Chunks as far as the first of pixels; those of animation and transparency must stand before it."""
    if raw[12:16] != b"IHDR":
        raise Unusable(CORRUPT)
    width, height, _, colour = struct.unpack_from(">IIBB", raw, 16)
    place, is_animated, has_alpha = 33, False, colour in (4, 6)
    while True:
        length, kind = struct.unpack_from(">I4s", raw, place)
        if kind == b"IDAT":
            return Header("png", width, height, is_animated, has_alpha)
        if kind == b"IEND" or length > 0x7FFFFFFF:
            raise Unusable(CORRUPT)
        if kind == b"acTL":
            is_animated = struct.unpack_from(">I", raw, place + 8)[0] > 1
        has_alpha = has_alpha or kind == b"tRNS"
        place += 12 + length


def _jpeg(raw: bytes) -> Header:
    """Segments as far as the first scan."""
    place, size, turned = 2, (0, 0), False
    while True:
        if raw[place] != 0xFF:
            raise Unusable(CORRUPT)
        while raw[place] == 0xFF:  # any number of them may fill up
            place += 1
        marker = raw[place]
        place += 1
        if marker in _BARE_MARKERS:
            continue
        if marker == 0xD9:
            raise Unusable(CORRUPT)
        (length,) = struct.unpack_from(">H", raw, place)
        if marker in _FRAME_MARKERS:
            if marker not in _DECODABLE_FRAMES:  # lossless and arithmetic coding
                raise Unusable(UNSUPPORTED)
            height, width = struct.unpack_from(">HH", raw, place + 3)
            size = (width, height)
            if marker == 0xC2 and raw.count(b"\xff\xda") > MAX_SCANS:
                raise Unusable(TOO_LARGE)
        elif marker == 0xE1 and raw[place + 2 : place + 8] == b"Exif\0\0":
            turned = _orientation(raw[place + 8 : place + length]) >= 5
        elif marker == 0xDA:
            width, height = reversed(size) if turned else size
            return Header("jpeg", width, height)
        place += max(length, 2)


def _orientation(exif: bytes) -> int:
    """How EXIF says that the picture is turned: 1 (or nothing that can be read) not at all, 5 to 8 by a quarter."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order:
            (place,) = struct.unpack_from(order + "I", exif, 4)
            (count,) = struct.unpack_from(order + "H", exif, place)
            for entry in range(place + 2, place + 2 + 12 * count, 12):
                tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, entry)
                if tag == _ORIENTATION:
                    return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _gif(raw: bytes) -> Header:
    """Blocks as far as the second frame, or the end."""
    width, height, flags = struct.unpack_from("<HHB", raw, 6)
    place, frames, end, has_alpha = 13 + _table(flags), 0, 0, False
    while place < len(raw):
        kind = raw[place]
        if kind == 0x2C:
            frames += 1
            if frames == 2:
                break
            # A frame may lie outside the screen that the header tells, and decoders make room for both.
            left, top, wide, high = struct.unpack_from("<HHHH", raw, place + 1)
            width, height = max(width, left + wide), max(height, top + high)
            place = _after_blocks(raw, place + 11 + _table(raw[place + 9]))
            end = place
        elif kind == 0x21:
            if raw[place + 1] == 0xF9 and not frames:
                has_alpha = has_alpha or bool(raw[place + 3] & 1)
            place = _after_blocks(raw, place + 2)
        elif kind == 0x3B:
            break
        else:
            raise Unusable(CORRUPT)
    if not frames:
        raise Unusable(TRUNCATED)
    return Header("gif", width, height, frames > 1, has_alpha, end, b"\x3b")


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(raw: bytes, place: int) -> int:
    while raw[place]:
        place += raw[place] + 1
    return place + 1


def _webp(raw: bytes) -> Header:
    (length,) = struct.unpack_from("<I", raw, 4)
    if length + 8 > len(raw) + 1:  # some writers leave out the last padding byte
        raise Unusable(TRUNCATED)
    kind = raw[12:16]
    if kind == b"VP8X":
        flags = raw[20]
        width, height = (int.from_bytes(raw[place : place + 3], "little") + 1 for place in (24, 27))
        if len(raw) < 30:
            raise Unusable(TRUNCATED)
        return Header("webp", width, height, bool(flags & 0x02), bool(flags & 0x10))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", raw, 21)
        if raw[20] != 0x2F:
            raise Unusable(CORRUPT)
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, False, bool(bits >> 28 & 1))
    if kind == b"VP8 ":
        if raw[23:26] != b"\x9d\x01\x2a":
            raise Unusable(CORRUPT)
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", raw, 26))
        return Header("webp", width, height)
    raise Unusable(UNSUPPORTED)
