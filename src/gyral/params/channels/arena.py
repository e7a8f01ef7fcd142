"""A memory whose parts are given out and come back: for arrays of some megabytes that live for a call.

The system clears every page that it hands out, which takes as long as filling it; memory that was used before is there at once,
and in the caches. An array that was lent gives its part back when it, and every view of it, is collected.
"""

from __future__ import annotations

import bisect
from collections import deque
from typing import Any

import numpy as np

from gyral.errors import RankError

ALIGN = 64


class Arena:
    """Gives out parts of a memory; the lowest that is free and large enough."""

    def __init__(self, memory: Any) -> None:
        self.memory = memoryview(memory)
        self.address = np.frombuffer(memory, np.uint8).ctypes.data
        self._free: list[tuple[int, int]] = [(0, len(memory))]
        self._freed: deque[tuple[int, int]] = deque()

    def take(self, size: int) -> tuple[int, int]:
        """A part: offset and size.

        Raises
        ------
        RankError : there is none of this size.
        """
        while self._freed:
            self._put(*self._freed.popleft())
        size = -(-max(size, 1) // ALIGN) * ALIGN
        for at, (offset, there) in enumerate(self._free):
            if there >= size:
                if there == size:
                    del self._free[at]
                else:
                    self._free[at] = (offset + size, there - size)
                return offset, size
        what = f"no {size:,} bytes of shared memory are left"
        raise RankError(what, why="pulled rows that are kept hold it", hint="copy rows that you keep")

    def give_back(self, part: tuple[int, int]) -> None:
        """It is free; from any thread, also while memory is being collected."""
        self._freed.append(part)

    def array(self, offset: int, num: int, dtype: Any) -> np.ndarray:
        """An array in it."""
        return np.frombuffer(self.memory[offset : offset + num * np.dtype(dtype).itemsize], dtype)

    def lent(self, part: tuple[int, int], offset: int, num: int, dtype: Any) -> np.ndarray:
        """An array in it, whose part is free once nobody has the array or a view of it."""
        return np.asarray(_Lent(self, part, offset, num, np.dtype(dtype)))

    def _put(self, offset: int, size: int) -> None:
        at = bisect.bisect(self._free, (offset, size))
        if at < len(self._free) and offset + size == self._free[at][0]:
            size += self._free.pop(at)[1]
        if at and sum(self._free[at - 1]) == offset:
            offset, size = self._free[at - 1][0], size + self._free[at - 1][1]
            self._free[at - 1] = (offset, size)
        else:
            self._free.insert(at, (offset, size))


class _Lent:
    """What numpy holds on to while an array or a view of it is alive."""

    def __init__(self, arena: Arena, part: tuple[int, int], offset: int, num: int, dtype: np.dtype[Any]) -> None:
        self._arena, self._part = arena, part
        data = (arena.address + offset, False)
        self.__array_interface__ = {"version": 3, "shape": (num,), "typestr": dtype.str, "data": data}

    def __del__(self) -> None:
        self._arena.give_back(self._part)
