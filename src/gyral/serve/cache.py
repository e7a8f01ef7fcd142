"""Answers that are kept: by route, model version and what was asked, up to so many bytes, and asked for once however many wait.

What stays is decided by S3-FIFO: what is new is in a small queue (a tenth of the bytes) and goes unless it is asked for again
there; what was goes into the main queue, from which it is dropped when a round passed in which nobody asked. Keys that went
from the small queue are remembered for a while and go straight to the main one when they come back. So what is asked once, most
of a long tail, never displaces what is asked often; `benchmarks/serve/cache.py` says how much that is worth over LRU.

A key is a keyed 128-bit BLAKE2b of everything that an answer depends on. A faster hash without a key would let a client make
two requests of one key and read what somebody else was answered.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

SMALL = 0.1
"""Share of the bytes that the small queue may have."""
MOST_ASKED = 3
"""What is counted of an entry's hits: each is worth one more round in the main queue."""
ENTRY_BYTES = 300
"""Of an entry beside its answer: key, objects, places in two dictionaries."""


class Counts(NamedTuple):
    """What a cache did: `shared` are requests that waited for another one's answer."""

    hits: int
    misses: int
    shared: int
    dropped: int
    entries: int
    num_bytes: int


class _Entry:
    __slots__ = ("answer", "asked", "size", "until")

    def __init__(self, answer: bytes, until: float) -> None:
        self.answer, self.until = answer, until
        self.size, self.asked = len(answer) + ENTRY_BYTES, 0


class Cache:
    """Answers of one gateway; used from one thread.

    Parameters
    ----------
    max_bytes : of answers and what keeping them costs; 0: nothing is kept.
    ttl_s : how long an answer may be told.
    """

    def __init__(self, max_bytes: int, ttl_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._max, self._ttl, self._clock = max_bytes, ttl_s, clock
        self._secret = secrets.token_bytes(32)
        self._small: OrderedDict[bytes, _Entry] = OrderedDict()
        self._main: OrderedDict[bytes, _Entry] = OrderedDict()
        self._gone: OrderedDict[bytes, int] = OrderedDict()
        self._small_bytes = self._main_bytes = self._gone_bytes = 0
        self._asking: dict[bytes, asyncio.Future[bytes]] = {}
        self._hits = self._misses = self._shared = self._dropped = 0

    def key(self, route: str, version: str, body: bytes) -> bytes:
        """Of what was asked; the parts cannot run into each other."""
        made = hashlib.blake2b(key=self._secret, digest_size=16)
        for part in (route.encode(), version.encode(), body):
            made.update(len(part).to_bytes(8, "little"))
            made.update(part)
        return made.digest()

    def get(self, key: bytes) -> bytes | None:
        """An answer that is kept and not too old."""
        entry = self._small.get(key) or self._main.get(key)
        if entry is not None and self._clock() >= entry.until:
            self._drop(key)
            entry = None
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        if entry.asked < MOST_ASKED:
            entry.asked += 1
        return entry.answer

    def put(self, key: bytes, answer: bytes) -> None:
        """Keep an answer, in the place of an older one of the same key."""
        self._drop(key)
        entry = _Entry(answer, self._clock() + self._ttl)
        if entry.size > self._max // 2:
            return  # it would empty the cache for itself
        if key in self._gone:
            self._forget(key)
            self._main[key] = entry
            self._main_bytes += entry.size
        else:
            self._small[key] = entry
            self._small_bytes += entry.size
        while self._small_bytes + self._main_bytes > self._max:
            self._make_room()

    async def ask(self, key: bytes, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """The answer that is kept, or the one that somebody else waits for already, or one that is made now.

        What `make` raises is raised for all who wait, and not kept. If the first of them is cancelled, the next one asks.
        """
        if (found := self.get(key)) is not None:
            return found
        while (other := self._asking.get(key)) is not None:
            self._shared += 1
            try:
                return await asyncio.shield(other)
            except asyncio.CancelledError:
                if not other.cancelled():
                    raise  # whoever waits here was cancelled, not whoever asks
        mine: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asking[key] = mine
        try:
            answer = await make()
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except BaseException as error:
            mine.set_exception(error)
            mine.exception()  # nobody may be waiting
            raise
        finally:
            del self._asking[key]
        mine.set_result(answer)
        self.put(key, answer)
        return answer

    def counts(self) -> Counts:
        """What it did, and holds."""
        held, size = len(self._small) + len(self._main), self._small_bytes + self._main_bytes
        return Counts(self._hits, self._misses, self._shared, self._dropped, held, size)

    def _make_room(self) -> None:
        """One entry goes, or gets another round."""
        if self._small_bytes > SMALL * self._max or not self._main:
            key, entry = self._small.popitem(last=False)
            self._small_bytes -= entry.size
            if entry.asked > 1:
                entry.asked = 0
                self._main[key] = entry
                self._main_bytes += entry.size
            else:
                self._dropped += 1
                self._remember(key, entry.size)
            return
        key, entry = self._main.popitem(last=False)
        if entry.asked and self._clock() < entry.until:
            entry.asked -= 1
            self._main[key] = entry
        else:
            self._main_bytes -= entry.size
            self._dropped += 1

    def _remember(self, key: bytes, size: int) -> None:
        """That a key went, as long as entries of the main queue's size would have stayed."""
        self._gone[key] = size
        self._gone_bytes += size
        while self._gone_bytes > (1 - SMALL) * self._max:
            _, other = self._gone.popitem(last=False)
            self._gone_bytes -= other

    def _forget(self, key: bytes) -> None:
        self._gone_bytes -= self._gone.pop(key)

    def _drop(self, key: bytes) -> None:
        if (entry := self._small.pop(key, None)) is not None:
            self._small_bytes -= entry.size
        elif (entry := self._main.pop(key, None)) is not None:
            self._main_bytes -= entry.size
