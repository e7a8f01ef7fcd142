"""Which charset bytes are in: evidence before claims.

In this order: a byte order mark; UTF-16 without one, told by where its zeros are; UTF-8, where the bytes are that throughout,
since text in another charset hardly ever is by chance (Dürst 1997: 2^-n for n bytes above 127); what the page claims in a
`meta` element or XML declaration; what uchardet makes of it. What the HTTP header claims comes before the page's own claim: the
reader of WARC re-encodes such records and puts a mark in front.
"""

from __future__ import annotations

import codecs
import re
import struct
from functools import lru_cache

import pyarrow as pa

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.\-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_:.\-]{2,40})[\"']")
_WIDER = {"shift_jis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs"}
"""What the web means by a name is more than the standard of that name."""
_CLAIM_BYTES = 4096
_SAMPLE_BYTES = 65_536
_LEAST_ZEROS, _MOST_STRAY = 0.3, 0.02
_MOST_CONTROLS = 0.02
_CONTROLS = bytes([*range(0, 9), *range(14, 27), *range(28, 32), 127])


def charset_of(raw: bytes, claimed: bool = True) -> tuple[str, bytes]:
    """Name of the charset of some bytes, as Python calls it, and the bytes without their mark.

    Parameters
    ----------
    claimed : whether a `meta` element or an XML declaration is looked for.
    """
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return name, raw[len(mark) :]
    wide = _wide(raw)
    if wide:
        return wide, raw
    escaped = b"\x1b$" in raw[:_SAMPLE_BYTES]  # ISO-2022 is all ASCII bytes
    if not escaped and is_utf8(raw):
        return "utf-8", raw
    claim = _claim(raw) if claimed else None
    return claim or _detected(raw, escaped), raw


def decode(raw: bytes, claimed: bool = True) -> str:
    """Bytes as text; what is no character of the charset becomes U+FFFD."""
    name, body = charset_of(raw, claimed)
    return body.decode(name, "replace")


def is_utf8(raw: bytes) -> bool:
    """Whether bytes are UTF-8 throughout."""
    if len(raw) < 1024:
        try:
            raw.decode()
        except UnicodeDecodeError:
            return False
        return True
    # Arrow looks at 8 or more bytes at once, Python makes a string
    lengths = pa.py_buffer(struct.pack("<ii", 0, len(raw)))
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, lengths, pa.py_buffer(raw)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def is_binary(raw: bytes) -> bool:
    """Whether bytes are no text in any charset: more than 2 % controls in the first 64 kB, and not UTF-16."""
    sample = raw[:_SAMPLE_BYTES]
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    return (
        controls > _MOST_CONTROLS * len(sample)
        and _wide(raw) is None
        and not raw.startswith(_MARKS[1][0])
        and not raw.startswith(_MARKS[2][0])
    )


@lru_cache(maxsize=1024)
def python_name(label: str) -> str | None:
    """What Python calls the charset that the web calls so; None for an unknown one."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    name = map_encoding_to_html5(label, fallback_utf8=False)
    try:
        known = codecs.lookup(name).name if name else None
    except LookupError:
        return None
    return _WIDER.get(known, known) if known else None


def _wide(raw: bytes) -> str | None:
    """UTF-16 without a mark: one byte of most pairs is zero, and it is hardly ever the other."""
    sample = raw[: min(_SAMPLE_BYTES, len(raw) & ~1)]
    if len(sample) < 4 or b"\0" not in sample[:4096]:
        return None
    even, odd, half = sample[0::2].count(0), sample[1::2].count(0), len(sample) // 2
    if odd >= _LEAST_ZEROS * half and even <= _MOST_STRAY * half:
        return "utf-16-le"
    if even >= _LEAST_ZEROS * half and odd <= _MOST_STRAY * half:
        return "utf-16-be"
    return None


def _claim(raw: bytes) -> str | None:
    match = _META.search(raw, 0, _CLAIM_BYTES) or _XML.search(raw[:_CLAIM_BYTES])
    name = python_name(match.group(1).decode()) if match else None
    return None if name is None or name.startswith("utf-16") or (name == "utf-8" and not _mostly_utf8(raw)) else name


def _mostly_utf8(raw: bytes) -> bool:
    """Whether at most one byte in a thousand of a page that says it is UTF-8 is not: a cut character, not another charset."""
    sample = raw[:_SAMPLE_BYTES]
    return sample.decode("utf-8", "replace").count("�") <= max(3, len(sample) // 1000)


def _detected(raw: bytes, escaped: bool) -> str:
    from resiliparse.parse.encoding import detect_encoding

    name = detect_encoding(raw, max_len=_SAMPLE_BYTES)
    if name == "utf-8" and not escaped and not _mostly_utf8(raw):
        name = "cp1252"
    return python_name(name or "cp1252") or "cp1252"
