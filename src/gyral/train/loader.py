"""Which examples a step trains on: a function of the seed and the step, so the position of a run is one integer.

Step s takes places [s B, (s + 1) B) of an endless stream of passes; the example at a place is a permutation that is computed
(`gyral.lake.order`), not stored. So a run resumes at any step, with any number of ranks, in no time and without state; which
rank computes which rows is decided anew each step by whoever takes part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gyral.errors import InputError
from gyral.lake.order import permuted


class Ended(Exception):
    """There is no such step: a live stream has ended before it."""


@dataclass(frozen=True)
class Part:
    """Which part of a step's global batch somebody computes: the `index`-th of `count` nearly equal ones."""

    index: int
    count: int

    def cut(self, num_rows: int) -> tuple[int, int]:
        """First row and the one after the last."""
        return self.index * num_rows // self.count, (self.index + 1) * num_rows // self.count

    def cuts(self, num_rows: int, size: int) -> list[tuple[int, int]]:
        """Rows [first, last) of each micro-batch of at most `size` rows; 0: all at once."""
        low, high = self.cut(num_rows)
        size = size or max(high - low, 1)
        return [(start, min(start + size, high)) for start in range(low, high, size)]


@dataclass(frozen=True)
class Order:
    """The order of examples.

    Attributes
    ----------
    num_rows : examples of a pass.
    batch : examples of a step, all ranks together.
    """

    num_rows: int
    batch: int
    seed: int
    ahead: ClassVar[int] = 4096
    """Examples whose places may be asked for at once: a permutation of 32 costs as much as one of a thousand (.1 ms)."""

    def examples(self, step: int, count: int = 1) -> np.ndarray:
        """Examples of a step, or of `count` from there on, int64 [count x batch]; they may reach over the end of a pass.

        Raises
        ------
        InputError : a pass has fewer examples than a batch.
        """
        if self.num_rows < self.batch:
            hint = f"`--set train.batch={max(self.num_rows, 1)}`, or train on more"
            raise InputError(f"a batch of {self.batch:,} does not fit into {self.num_rows:,} examples", hint=hint)
        at, end, found = step * self.batch, (step + count) * self.batch, []
        while at < end:
            number, place = divmod(at, self.num_rows)
            places = np.arange(place, min(place + end - at, self.num_rows))
            found.append(permuted(places, self.num_rows, self.seed, number))
            at += len(places)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def position(self, step: int) -> tuple[int, int]:
        """Pass and place in it at which a step begins."""
        return divmod(step * self.batch, self.num_rows)


class Ahead:
    """The examples of steps one after the other, computed some steps ahead; any step may be asked for."""

    def __init__(self, order: Order) -> None:
        self._order, self._first = order, -1
        self._block: np.ndarray = np.zeros((0, order.batch), np.int64)

    def examples(self, step: int) -> np.ndarray:
        """As `Order.examples`, int64 [batch]."""
        if not 0 <= step - self._first < len(self._block):
            count = max(1, self._order.ahead // self._order.batch)
            self._first, self._block = step, self._order.examples(step, count).reshape(count, -1)
        found: np.ndarray = self._block[step - self._first]
        return found
