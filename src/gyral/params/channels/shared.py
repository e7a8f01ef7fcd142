"""Memory that a client and a shard of one machine both map: arrays lie there, and the socket carries heads alone.

The client makes it (a sealed memory file that nobody can shrink), hands it over with its first byte, and gives out its parts:
to keys and gradients of a frame until that is answered, to rows of a pull until the array that the caller got is collected. So
a pull copies its rows once, into the shared part, and the caller reads them there. Addresses are reserved and cost nothing
until they are touched; the lowest free part is taken first, so few pages are.

Measured (`benchmarks/params/channels.py`, a busy machine): a pull and a push of 65,536 rows of 32 take 1.3 times the CPU time
of the table alone, over TCP 1.7 times; one key takes 100 to 150 µs, nearly all of it Python on both sides.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from gyral.engine.links import nothing
from gyral.errors import RankError
from gyral.params import wire
from gyral.params.channels.arena import ALIGN, Arena
from gyral.params.spec import TableSpec
from gyral.params.wire import Arrays, Head

SIZE_BYTES = 1 << 36
LEAST_BYTES = 1 << 28
_OFFSET = struct.Struct("<Q")
_ADD_SEALS, _GET_SEALS = 1033, 1034
_SEAL_SHRINK = 2


def new_memory() -> int:
    """A file number of memory of `SIZE_BYTES`, or less where the system gives less."""
    number = os.memfd_create("gyral-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    size = SIZE_BYTES
    while True:
        try:
            os.ftruncate(number, size)
            mmap.mmap(number, size).close()
            break
        except (OSError, ValueError) as error:
            size //= 2
            if size < LEAST_BYTES:
                os.close(number)
                raise RankError("no memory to share with a shard", why=str(error), hint="raise `ulimit -v`") from error
    fcntl.fcntl(number, _ADD_SEALS, _SEAL_SHRINK)
    return number


def mapped(number: int) -> mmap.mmap:
    """The memory of a file number, which is closed.

    Raises
    ------
    ValueError : whoever made it could shrink it under us.
    """
    try:
        if not fcntl.fcntl(number, _GET_SEALS) & _SEAL_SHRINK:
            raise ValueError("memory that is not sealed")
        return mmap.mmap(number, os.fstat(number).st_size)
    finally:
        os.close(number)


class _Codec:
    coding = "f32"

    def __init__(self, memory: mmap.mmap, specs: Sequence[TableSpec]) -> None:
        self._arena, self._dims = Arena(memory), [spec.dim for spec in specs]

    def into(self, head: bytes, size: int) -> Sequence[Any]:
        """Nothing follows a head."""
        return nothing(head, size)

    def room(self, head: wire.Pull, is_sending: bool) -> np.ndarray | None:
        """A client has none."""
        return None

    def _rows(self, offset: int, num: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a pull's rows and marks are."""
        rows = self._arena.array(offset, num * dim, np.float32).reshape(num, dim)
        return rows, self._arena.array(offset + rows.nbytes, num, np.bool_)


class ClientCodec(_Codec):
    """A client's side: it decides where everything lies."""

    def __init__(self, memory: mmap.mmap, specs: Sequence[TableSpec]) -> None:
        super().__init__(memory, specs)
        self._lent: dict[int, tuple[tuple[int, int], int, int]] = {}

    def frame(self, head: Head, arrays: Arrays) -> tuple[bytes, Arrays]:
        """Put arrays where the shard can read them, and keep room for its answer."""
        offset = 0
        if isinstance(head, wire.Pull | wire.Push):
            num, dim = head.num, self._dims[head.table]
            keys_bytes = -(-8 * num // ALIGN) * ALIGN
            several = len(arrays) - 1 if isinstance(head, wire.Push) else 1
            part = self._arena.take(keys_bytes + several * 4 * num * dim + num)
            offset = part[0]
            self._arena.array(offset, num, np.int64)[:] = arrays[0]
            if isinstance(head, wire.Push):
                there = self._arena.array(offset + keys_bytes, several * num * dim, np.float32).reshape(several, num, dim)
                for number, each in enumerate(arrays[1:]):
                    there[number] = each
            self._lent[head.number] = part, num, dim
        return _OFFSET.pack(offset) + wire.encode(head), ()

    def received(self, head: bytes) -> tuple[Any, Arrays]:
        """Rows are where there was room for them."""
        made = wire.decode_from_shard(memoryview(head)[_OFFSET.size :])
        if isinstance(made, wire.Rows):
            if made.to not in self._lent:
                raise ValueError("rows that nobody asked for")
            part, num, dim = self._lent.pop(made.to)
            offset = part[0] + -(-8 * num // ALIGN) * ALIGN
            both = self._arena.lent(part, offset, num * (4 * dim + 1), np.uint8)
            return made, (both[: 4 * num * dim].view(np.float32).reshape(num, dim), both[4 * num * dim :].view(np.bool_))
        if isinstance(made, wire.Done | wire.Refused) and made.to in self._lent:
            self._arena.give_back(self._lent.pop(made.to)[0])
        return made, ()


class ShardCodec(_Codec):
    """A shard's side: it looks where it is told, within bounds."""

    def __init__(self, memory: mmap.mmap, specs: Sequence[TableSpec]) -> None:
        super().__init__(memory, specs)
        self._rooms: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def received(self, head: bytes) -> tuple[Any, Arrays]:
        """Keys and gradients, where they lie.

        Raises
        ------
        ValueError : they cannot lie there.
        """
        (offset,) = _OFFSET.unpack_from(head)
        made = wire.decode_from_client(memoryview(head)[_OFFSET.size :])
        if not isinstance(made, wire.Pull | wire.Push):
            return made, ()
        if not 0 <= made.table < len(self._dims):
            raise ValueError(f"there is no table {made.table}")
        num, dim = made.num, self._dims[made.table]
        after = offset + -(-8 * num // ALIGN) * ALIGN
        several = 2 if isinstance(made, wire.Push) and made.has_base else 1
        if num < 0 or offset % ALIGN or after + num * (4 * dim * several + 1) > len(self._arena.memory):
            raise ValueError(f"{num:,} keys at {offset:,}")
        keys = self._arena.array(offset, num, np.int64)
        if isinstance(made, wire.Push):
            return made, (keys, *self._arena.array(after, several * num * dim, np.float32).reshape(several, num, dim))
        self._rooms[made.number] = self._rows(after, num, dim)
        return made, (keys,)

    def room(self, head: wire.Pull, is_sending: bool) -> np.ndarray | None:
        """In the shared memory."""
        return self._rooms[head.number][0]

    def frame(self, head: Head, arrays: Arrays) -> tuple[bytes, Arrays]:
        """Rows into the room that there is for them."""
        if isinstance(head, wire.Rows):
            rows, held = self._rooms.pop(head.to)
            held[:] = arrays[1]
            if arrays[0] is not rows:
                rows[:] = arrays[0]
        return _OFFSET.pack(0) + wire.encode(head), ()
