"""One huge reservation of addresses a table, filled as it is touched: rows and index grow and nothing is ever copied or moved.

A reservation costs addresses, not memory: the system hands out a page when it is first written. Beyond the first 2 MiB huge
pages are asked for (random rows of a table of 256 MB: `benchmarks/params/table.py` says what that gains); small tables keep
small pages. In a folder the reservation is a sparse file instead, whose cold pages the system writes out and takes back; the
file has no name any more once it is mapped, so that nothing is left behind by a killed process: what must last is in the cuts.

Where the system gives less than was asked for (`ulimit -v`, strict overcommit, a small disk quota), half is tried, and so on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from gyral.errors import InputError

_NORESERVE = 0x4000 if os.uname().sysname == "Linux" else 0
HUGE = 1 << 21
LEAST = 1 << 24
"""Bytes below which it is said that there is no memory."""


class Reservation:
    """Addresses for `size_bytes` bytes at most, zeros until they are written.

    Parameters
    ----------
    size_bytes : wished for; `len(memory)` is what was given.
    folder : of the sparse file; `None`: memory of this process.

    Raises
    ------
    InputError : not even 16 MiB of addresses are given.
    """

    def __init__(self, size_bytes: int, folder: Path | None = None) -> None:
        self._file = -1
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file, path = tempfile.mkstemp(prefix="rows-", dir=folder)
            os.unlink(path)
        asked, size = size_bytes, max(LEAST, -(-size_bytes // HUGE) * HUGE)
        while True:
            try:
                self._map = self._mapped(size)
                break
            except (OSError, OverflowError, ValueError) as error:
                if size <= LEAST:
                    raise InputError("no memory for a table", why=f"{asked:,} bytes of addresses were asked for: {error}",
                                     hint="raise `ulimit -v` and `ulimit -d`") from error  # fmt: skip
                size = max(LEAST, size // 2 // HUGE * HUGE)
        self._size = size
        if self._file < 0 and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a system built without them
                self._map.madvise(mmap.MADV_HUGEPAGE, HUGE, size - HUGE)

    def __len__(self) -> int:
        return self._size

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    def view(self, dtype: type) -> np.ndarray:
        """The whole as a flat array, of the same memory."""
        return np.frombuffer(self._map, dtype=dtype)

    def release(self, start: int) -> None:
        """Give back what is behind `start` bytes; it reads as zeros again."""
        start = -(-start // HUGE) * HUGE
        if start < self._size and self._file < 0:
            self._map.madvise(mmap.MADV_DONTNEED, start, self._size - start)

    @property
    def file_bytes(self) -> int:
        """Of the sparse file: bytes that have a block; 0 for memory."""
        return os.fstat(self._file).st_blocks * 512 if self._file >= 0 else 0

    def _mapped(self, size: int) -> mmap.mmap:
        if self._file < 0:
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        os.ftruncate(self._file, size)
        return mmap.mmap(self._file, size)
