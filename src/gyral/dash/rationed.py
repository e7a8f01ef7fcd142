"""Answers that cost much: kept by what was asked, and new ones made one at a time for no more than a share of a core.

Whoever sees the pages may ask for plans, and a plan of serving takes .6 to .9 s of CPU: asked again and again, with other
numbers each time, they would take a core from the answers of the server that shows them. What is spent above the share is
waited for by who asks next, with a 429 that says how long; an answer that is kept costs nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from gyral.errors import GyralError

Answer = TypeVar("Answer")
SHARE = 0.1
"""Of a core, over time."""
AT_ONCE_S = 6.0
"""CPU seconds that may be spent at once after a rest: seven plans of serving."""
MOST_S = 2.0
"""What one is counted as at most: the first on a machine compiles what plays the queues."""
WAIT_S = 3.0
"""How long one waits for another that is being made; each waits in a thread that a page would need."""
KEPT = 64


class Busy(GyralError):
    """Not now; `retry_s` seconds later."""

    def __init__(self, retry_s: int) -> None:
        super().__init__("too many plans are asked for", why=f"they take {SHARE:.0%} of a core", hint=f"ask in {retry_s} s")
        self.retry_s = retry_s


class Rationed(Generic[Answer]):
    """One ration, which all who ask share. Safe in threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Answer] = OrderedDict()
        self._making, self._changing = threading.Lock(), threading.Lock()
        self._left_s, self._at = AT_ONCE_S, time.monotonic()

    def answer(self, asked: Hashable, make: Callable[[], Answer]) -> Answer:
        """What was made for the same question, else `make()`, whose errors are not kept.

        Raises
        ------
        Busy : the ration is used up, or another one is being made for long.
        """
        if (kept := self._known(asked)) is not None:
            return kept
        if not self._making.acquire(timeout=WAIT_S):
            raise Busy(math.ceil(WAIT_S))
        try:
            if (kept := self._known(asked)) is not None:
                return kept
            now = time.monotonic()
            self._left_s, self._at = min(AT_ONCE_S, self._left_s + SHARE * (now - self._at)), now
            if self._left_s <= 0:
                raise Busy(max(1, math.ceil(-self._left_s / SHARE)))
            before = time.thread_time()
            try:
                made = make()
            finally:
                self._left_s -= min(time.thread_time() - before, MOST_S)
        finally:
            self._making.release()
        with self._changing:
            self._kept[asked] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def _known(self, asked: Hashable) -> Answer | None:
        with self._changing:
            if asked in self._kept:
                self._kept.move_to_end(asked)
            return self._kept.get(asked)
