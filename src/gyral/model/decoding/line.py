"""Who waits for a place in a pass, and what comes before whom.

Those that gave their pages back come first, the oldest before the others, or one that has begun could wait for ever; then the
rest by priority, by deadline, by arrival.
"""

from __future__ import annotations

from bisect import bisect_right, insort_right
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from gyral.model.decoding.sequence import Growing, TokenAsk


class Ahead(NamedTuple):
    """What a sequence that comes now would have before it.

    Attributes
    ----------
    waiting, before : sequences that wait, and those of them that would have their turn first.
    running : sequences that have begun.
    unread : tokens of prompts that are read before its own.
    """

    waiting: int
    before: int
    running: int
    unread: int


class Line:
    """Sequences that wait."""

    def __init__(self) -> None:
        self._gave_way: deque[Growing] = deque()
        self._new: list[Growing] = []

    def __len__(self) -> int:
        return len(self._gave_way) + len(self._new)

    def __iter__(self) -> Iterator[Growing]:
        """In the order of their turns."""
        yield from self._gave_way
        yield from self._new

    def add(self, growing: Growing) -> None:
        """One that is new."""
        insort_right(self._new, growing, key=_rank)

    def give_way(self, growing: Growing) -> None:
        """One that had begun, later than those that gave way since."""
        self._gave_way.appendleft(growing)

    def pop(self) -> Growing:
        """Whose turn it is."""
        return self._gave_way.popleft() if self._gave_way else self._new.pop(0)

    def remove(self, growing: Growing) -> None:
        """One that has ended."""
        (self._gave_way if growing in self._gave_way else self._new).remove(growing)

    def ahead(self, ask: TokenAsk, deadline_at: float, running: list[Growing]) -> Ahead:
        """What an ask would have before it, beside those that run."""
        num = bisect_right(self._new, (ask.priority, deadline_at), key=_rank)
        before = [*self._gave_way, *self._new[:num]]
        unread = sum(each.left for each in [*before, *running] if not each.is_decoding)
        return Ahead(len(self), len(before), len(running), unread)


def _rank(growing: Growing) -> tuple[int, float]:
    return growing.ask.priority, growing.deadline_at
