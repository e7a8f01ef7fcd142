"""A patch makes one file out of an older one; this applies it. Standard library and numpy only, for devices.

    "gyral-patch-1\n"  bytes of the header, u32  header, JSON  payload, packed

The header says what the file before and the file after are (bytes, BLAKE2b), and in which steps the one becomes the other:

    runs  [n]                                n times: copy a run of the old file, then take one from the payload
    rows  [at, old, width, item, new, part]  a table [old, width] of bytes at `at` becomes one of `new` rows: each is a row of
                                             the old table or zeros, and to `part` of them something is added, by items

Numbers and rows lie in byte planes, all lowest bytes first: that packs small differences. Nothing that a patch says is
believed: every place is checked against what there is, and the result against its digest.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import zlib
from typing import Any

import numpy as np

MAGIC = b"gyral-patch-1\n"
MAX_HEADER_BYTES = 4 << 20
ITEMS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Damaged(ValueError):
    """A patch, or the file it is for, is not what it should be."""


def digest(data: bytes | bytearray | memoryview) -> str:
    """BLAKE2b of 32 bytes, in hexadecimal: the name that a file goes by."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def planes(values: np.ndarray) -> np.ndarray:
    """Unsigned integers [n] as bytes: all lowest ones first, then the next; uint8 [n × item]."""
    item = values.dtype.itemsize
    ordered = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(ordered.reshape(-1).view(np.uint8).reshape(-1, item).T).reshape(-1)


def from_planes(data: np.ndarray, item: int) -> np.ndarray:
    """The integers of `planes`."""
    return np.ascontiguousarray(data.reshape(item, -1).T).reshape(-1).view(np.dtype(ITEMS[item]).newbyteorder("<"))


def pack(header: dict[str, Any], payload: bytes) -> bytes:
    """A patch of its parts; large payloads by zlib, because xz takes thirty times as long."""
    codec = "xz" if len(payload) <= 32 << 20 else "zlib"
    packed = lzma.compress(payload, preset=6) if codec == "xz" else zlib.compress(payload, 6)
    head = json.dumps({**header, "codec": codec, "payload": len(payload)}, separators=(",", ":")).encode()
    return MAGIC + struct.pack("<I", len(head)) + head + packed


def apply(old: bytes, patch: bytes, max_bytes: int = 1 << 40) -> bytearray:
    """The file that a patch makes of `old`.

    Parameters
    ----------
    max_bytes : of the result and of what is unpacked on the way to it.

    Raises
    ------
    Damaged : the patch is none, is for another file, or does not make what it says.
    """
    try:
        header, payload = _opened(patch, max_bytes)
        (old_size, old_digest), (new_size, new_digest) = header["old"], header["new"]
        if len(old) != old_size or digest(old) != old_digest:
            raise Damaged("it is a patch for another file")
        made = bytearray(new_size)
        out, at, taken = np.frombuffer(made, np.uint8), 0, 0
        for kind, *numbers in header["steps"]:
            if kind not in ("runs", "rows") or any(type(each) is not int or each < 0 for each in numbers):
                raise Damaged(f"`{str(kind)[:20]}` is no step")
            step = _runs if kind == "runs" else _rows
            at, taken = step(np.frombuffer(old, np.uint8), payload, taken, out, at, *numbers)
        if at != new_size or taken != len(payload) or digest(made) != new_digest:
            raise Damaged("it does not make the file that it should")
    except Damaged:
        raise
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, struct.error, MemoryError) as error:
        raise Damaged(f"it cannot be read: {type(error).__name__}: {error}") from None
    return made


def _opened(patch: bytes, max_bytes: int) -> tuple[dict[str, Any], np.ndarray]:
    first = len(MAGIC) + 4
    if patch[: len(MAGIC)] != MAGIC or len(patch) < first:
        raise Damaged("it is no patch")
    (size,) = struct.unpack("<I", patch[len(MAGIC) : first])
    if size > MAX_HEADER_BYTES:
        raise Damaged("its header is too long")
    header: dict[str, Any] = json.loads(patch[first : first + size])
    length = header["payload"]
    if not 0 <= length <= max_bytes or not 0 <= header["new"][0] <= max_bytes:
        raise Damaged(f"it would take more than {max_bytes:,} bytes")
    body = patch[first + size :]
    try:
        if header["codec"] == "xz":
            payload = lzma.LZMADecompressor(memlimit=1 << 28).decompress(body, max_length=length + 1)
        else:
            payload = zlib.decompressobj().decompress(body, length + 1)
    except (lzma.LZMAError, zlib.error) as error:
        raise Damaged(f"it cannot be unpacked: {error}") from None
    if len(payload) != length:
        raise Damaged("it ends early, or goes on too long")
    return header, np.frombuffer(payload, np.uint8)


def _taken(payload: np.ndarray, at: int, size: int) -> np.ndarray:
    if size < 0 or at + size > len(payload):
        raise Damaged("its payload ends early")
    return payload[at : at + size]


def _runs(old: np.ndarray, payload: np.ndarray, taken: int, out: np.ndarray, at: int, num: int) -> tuple[int, int]:
    """Copies and new bytes by turns; both places after it."""
    numbers = from_planes(_taken(payload, taken, 24 * num), 8).reshape(3, num)
    taken += 24 * num
    for start, copied, fresh in zip(*numbers.tolist(), strict=True):
        if start + copied > len(old) or at + copied + fresh > len(out):
            raise Damaged("a run lies outside the file")
        out[at : at + copied] = old[start : start + copied]
        at += copied
        out[at : at + fresh] = _taken(payload, taken, fresh)
        at, taken = at + fresh, taken + fresh
    return at, taken


def _rows(
    old: np.ndarray, payload: np.ndarray, taken: int, out: np.ndarray, at: int,
    start: int, num_old: int, width: int, item: int, num: int, num_changed: int,
) -> tuple[int, int]:  # fmt: skip
    """One table; both places after it."""
    if item not in ITEMS or width % item or start + num_old * width > len(old) or at + num * width > len(out):
        raise Damaged("a table lies outside the file")
    jumps = from_planes(_taken(payload, taken, 4 * num), 4).view("<i4")
    taken += 4 * num
    source = np.cumsum(jumps, dtype=np.int64) + np.arange(num) - 1
    """Row of the old table; −1: zeros. What follows the row before it has a jump of 0."""
    if num and (source.min() < -1 or source.max() >= num_old):
        raise Damaged("a row lies outside its table")
    marks = -(-num // 8)
    mask = np.unpackbits(_taken(payload, taken, marks))[:num].astype(bool)
    taken += marks
    if int(mask.sum()) != num_changed:
        raise Damaged("rows are marked that it does not have")
    kind = np.dtype(ITEMS[item]).newbyteorder("<")
    table = old[start : start + num_old * width].view(kind).reshape(num_old, width // item)
    made = np.zeros((num, width // item), kind)
    made[source >= 0] = table[source[source >= 0]]
    added = from_planes(_taken(payload, taken, num_changed * width), item).reshape(num_changed, width // item)
    made[mask] += added
    out[at : at + num * width] = made.reshape(-1).view(np.uint8)
    return at + num * width, taken + num_changed * width
