"""Packed files, unpacked no further than a limit: a gigabyte of zeros in a megabyte costs no memory.

gzip by zlib member after member, zstd by Arrow. What ends in the middle gives what could be read, and says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

CHUNK_BYTES = 1 << 20
_GZIP = 31


class Damaged(Exception):
    """A packed file cannot be unpacked any further."""


def unpack_head(head: bytes, packed: str, limit: int) -> bytes:
    """What the first bytes of a packed file give, at most `limit` bytes; as much as there is where they end early."""
    if packed == ".gz":
        try:
            return zlib.decompressobj(_GZIP).decompress(head, limit)
        except zlib.error:
            return b""
    try:
        with pa.input_stream(pa.BufferReader(head), compression="zstd") as stream:
            return bytes(stream.read(limit))
    except (OSError, pa.ArrowException):
        return b""


def chunks(path: Path, packed: str) -> Iterator[bytes]:
    """The bytes of a file in pieces of about a megabyte, unpacked where it is packed.

    Raises
    ------
    Damaged : it is cut off or corrupt; what came before was yielded.
    OSError : it cannot be read.
    """
    with open(path, "rb") as file:
        if packed == ".gz":
            yield from _gzip_chunks(file)
        elif packed == ".zst":
            yield from _zstd_chunks(file)
        else:
            while piece := file.read(CHUNK_BYTES):
                yield piece


def read_bounded(path: Path, packed: str, limit: int) -> bytes | None:
    """All of a file, unpacked; None where that is more than `limit` bytes, of which no more than the limit was unpacked.

    Raises
    ------
    Damaged, OSError : as `chunks`.
    """
    pieces, size = [], 0
    for piece in chunks(path, packed):
        size += len(piece)
        if size > limit:
            return None
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _gzip_chunks(file: IO[bytes]) -> Iterator[bytes]:
    member, begun = zlib.decompressobj(_GZIP), False
    while piece := file.read(CHUNK_BYTES):
        while piece:
            try:
                yield member.decompress(piece, CHUNK_BYTES)
            except zlib.error as error:
                if not begun and not piece.strip(b"\0"):
                    return  # tape blocks are padded with zeros
                raise Damaged(str(error)) from None
            begun = True
            if member.eof:
                piece, member, begun = member.unused_data, zlib.decompressobj(_GZIP), False
            else:
                piece = member.unconsumed_tail
    if begun:
        rest = member.flush()
        if rest:
            yield rest
        raise Damaged("it ends in the middle")


def _zstd_chunks(file: IO[bytes]) -> Iterator[bytes]:
    try:
        with pa.input_stream(pa.PythonFile(file, "r"), compression="zstd") as stream:
            while piece := stream.read(CHUNK_BYTES):
                yield bytes(piece)
    except (OSError, pa.ArrowException) as error:
        raise Damaged(str(error)) from None
