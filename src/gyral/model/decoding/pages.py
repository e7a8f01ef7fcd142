"""Memory of keys and values: pages of 16 positions (another engine may want others), each with a count of who holds it.

A sequence takes a page when it needs one and gives it back when it leaves, so what is reserved and not used is half a page a
sequence. A page that several hold (sequences with the same beginning, the tree of beginnings) is there once; who writes into
one that others hold too gets a copy of its own first. A page is in all layers at once: its number is the same in each.

int8 pages need .27 of the memory of float32 ones at heads of 64 (a scale for each position and head included).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.errors import UsageError
from gyral.model.decoding.page_kernel import PAGE


class Layer(NamedTuple):
    """What one layer keeps: [P, K, E, 16], [P, K, 16, E] and, of both, [2, P, K, 16].

    Another engine than `forward` may lay the same bytes out in its own way.
    """

    keys: np.ndarray
    values: np.ndarray
    scales: np.ndarray


class Pages:
    """All pages of a process.

    Parameters
    ----------
    num : pages.
    depth, kv_heads, head_width : of the model.
    is_int8 : keys and values are rounded to eight bits.
    size : positions of a page, as the engine has them that reads it.

    Raises
    ------
    UsageError : heads are not a multiple of four wide.
    """

    def __init__(self, num: int, depth: int, kv_heads: int, head_width: int, is_int8: bool = False, size: int = PAGE) -> None:
        if num < 1 or head_width % 4:
            raise UsageError("no pages can be made for this model", why=f"{num} pages, heads {head_width} wide")
        kind = np.int8 if is_int8 else np.float32
        self.num, self.size = num, size
        self.layers = [
            Layer(
                np.zeros((num, kv_heads, head_width, size), kind),
                np.zeros((num, kv_heads, size, head_width), kind),
                np.zeros((2, num, kv_heads, size), np.float32),
            )
            for _ in range(depth)
        ]
        self.holders = np.zeros(num, np.int32)
        self._free = list(range(num - 1, -1, -1))

    @staticmethod
    def size_bytes(depth: int, kv_heads: int, head_width: int, is_int8: bool = False, size: int = PAGE) -> int:
        """Of one page."""
        return depth * kv_heads * size * 2 * (head_width * (1 if is_int8 else 4) + 4)

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def take(self) -> int:
        """A page held once.

        Raises
        ------
        UsageError : none is free; ask `num_free` first.
        """
        if not self._free:
            raise UsageError("no page is free", why=f"all {self.num:,} are held")
        page = self._free.pop()
        self.holders[page] = 1
        return page

    def hold(self, page: int) -> int:
        """One more holds it."""
        self.holders[page] += 1
        return page

    def drop(self, page: int) -> None:
        """One fewer; the last one frees it."""
        self.holders[page] -= 1
        if not self.holders[page]:
            self._free.append(page)

    def copy(self, source: int, target: int) -> None:
        """The contents of one page into another, in all layers."""
        for keys, values, scales in self.layers:
            keys[target], values[target], scales[:, target] = keys[source], values[source], scales[:, source]
