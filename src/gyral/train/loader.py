"""Which examples a step trains on: a function of the seed and the step, so the position of a run is one integer.

Step s takes places [s B, (s + 1) B) of an endless stream of passes; the example at a place is a permutation that is computed
(`gyral.lake.order`), not stored. So a run resumes at any step, with any number of ranks, in no time and without state; which
rank computes which rows is decided anew each step by whoever takes part in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gyral.errors import InputError
from gyral.lake.order import permuted


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

    def examples(self, step: int) -> np.ndarray:
        """Examples of a step, int64 [batch]; a step may reach over the end of a pass.

        Raises
        ------
        InputError : a pass has fewer examples than a batch.
        """
        if self.num_rows < self.batch:
            hint = f"`--set train.batch={max(self.num_rows, 1)}`, or train on more"
            raise InputError(f"a batch of {self.batch:,} does not fit into {self.num_rows:,} examples", hint=hint)
        first = step * self.batch
        number, place = divmod(first, self.num_rows)
        places = np.arange(place, min(place + self.batch, self.num_rows))
        found = permuted(places, self.num_rows, self.seed, number)
        if len(found) == self.batch:
            return found
        rest = np.arange(self.batch - len(found))
        return np.concatenate([found, permuted(rest, self.num_rows, self.seed, number + 1)])

    def position(self, step: int) -> tuple[int, int]:
        """Pass and place in it at which a step begins."""
        return divmod(step * self.batch, self.num_rows)
