"""Sends a traffic when it is due, whatever becomes of the answers.

A request that is due takes the idle connection that was used last; where none is idle one more is opened, up to a limit, and
the request waits for whichever is free first. That wait is part of its latency. Of requests that are due at once 32 are sent
before answers are read again, so that a burst does not delay the clock of answers by more than about half a millisecond.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from gyral.bench.alarm import Alarm
from gyral.bench.connection import Connection, StreamConnection
from gyral.bench.record import OK, OPEN, TIMEOUT, UNREACHED, Record
from gyral.bench.traffic import Traffic
from gyral.errors import UsageError

AT_ONCE = 32
TICK_S = 0.1
LEAD_S = 0.05
"""From the call to the first arrival's zero, so that it is not late by what starting takes."""

OnTick = Callable[[int, int], None]


class Target(NamedTuple):
    """A server: its address, and how it is spoken to."""

    host: str
    port: int
    is_tls: bool
    prefix: str = ""

    @classmethod
    def of(cls, url: str) -> Target:
        """Read `http://HOST:PORT/PREFIX`.

        Raises
        ------
        UsageError : it is no such address.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            parts, port = urlsplit("x:"), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"`{url}` is no address of a server", hint="write `http://127.0.0.1:8000`")
        if parts.username or parts.password:
            raise UsageError("an address with a password is kept in the run's record", hint="`--key-env NAME` reads a key")
        is_tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if is_tls else 80), is_tls, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """As the `host` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


class Drive:
    """One run of a traffic; `await drive.run()` once.

    Parameters
    ----------
    connections : open at once at most.
    per_connection : requests after which a connection is made anew, 0: never.
    timeout_s : from the moment a request is due.
    on_tick : told every `TICK_S` how many requests have an outcome, and how many of those failed.
    """

    def __init__(
        self,
        traffic: Traffic,
        target: Target,
        *,
        connections: int = 1_000,
        per_connection: int = 0,
        timeout_s: float = 30.0,
        on_tick: OnTick | None = None,
    ) -> None:
        self.record = Record(len(traffic))
        self.start_s = 0.0
        self._traffic, self._target = traffic, target
        self._limit, self._per_connection, self._timeout_s = connections, per_connection, timeout_s
        self._on_tick = on_tick
        self._due = traffic.due_s.tolist()
        self._head, self._tail = traffic.head.tolist(), traffic.tail.tolist()
        self._kind = StreamConnection if traffic.is_stream else Connection
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._waiting: deque[int] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._tls = ssl.create_default_context() if target.is_tls else None
        self._next = self._num_ended = self._num_failed = 0

    async def run(self) -> Record:
        """Send everything and wait until every request has an outcome."""
        loop = asyncio.get_running_loop()
        self._loop, self._ended = loop, asyncio.Event()
        self._alarm = Alarm(loop, self._dispatch)
        gc.collect()
        gc.freeze()
        gc.disable()  # a full collection would be lateness, and nothing here makes cycles
        before_s = time.process_time()
        try:
            self.start_s = time.monotonic() + LEAD_S
            self._alarm.at(self.start_s + self._due[0])
            tick = loop.create_task(self._tick())
            await self._ended.wait()
            tick.cancel()
        finally:
            gc.enable()
            gc.unfreeze()
            self._alarm.close()
            for task in self._connecting:
                task.cancel()
            for each in list(self._all):
                if each.transport is not None:
                    each.transport.abort()
            await asyncio.sleep(0)  # the loop calls `connection_lost`
        self.record.cpu_s = time.process_time() - before_s
        return self.record

    def _dispatch(self) -> None:
        due, record, number = self._due, self.record, self._next
        last = min(number + AT_ONCE, len(due))
        now_s = time.monotonic() - self.start_s
        while number < last and due[number] <= now_s:
            record.reached_s[number] = now_s
            connection = self._free()
            if connection is not None:
                self._send(connection, number, now_s)
            else:
                self._waiting.append(number)
                self._more()
            number += 1
            now_s = time.monotonic() - self.start_s
        self._next = number
        if number < len(due):
            if due[number] <= now_s:
                self._loop.call_soon(self._dispatch)
            else:
                self._alarm.at(self.start_s + due[number])

    def _send(self, connection: Connection, number: int, now_s: float) -> None:
        self.record.sent_s[number] = now_s
        traffic = self._traffic
        connection.send(number, traffic.heads[self._head[number]] + traffic.tails[self._tail[number]])

    def _free(self) -> Connection | None:
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    def opened(self, connection: Connection) -> None:
        """A connection can be used."""
        self._all.add(connection)
        self.record.num_connections += 1
        self.record.most_open = max(self.record.most_open, len(self._all))
        self._serve(connection)

    def ended(self, connection: Connection, outcome: int, *, is_kept: bool) -> None:
        """A connection's request has an outcome."""
        number, connection.number = connection.number, -1
        if number >= 0:
            self._outcome(number, outcome)
        if is_kept and (not self._per_connection or connection.num_sent < self._per_connection):
            self._serve(connection)
        elif connection.transport is not None:
            connection.transport.abort() if outcome != OK else connection.transport.close()

    def lost(self, connection: Connection) -> None:
        """A connection is no more."""
        self._all.discard(connection)
        self._more()

    def _serve(self, connection: Connection) -> None:
        """Give a free connection the request that waits longest."""
        if self._waiting:
            self._send(connection, self._waiting.popleft(), time.monotonic() - self.start_s)
        else:
            self._idle.append(connection)

    def _outcome(self, number: int, outcome: int) -> None:
        record = self.record
        if record.outcome[number] != OPEN:
            return
        record.outcome[number] = outcome
        record.done_s[number] = time.monotonic() - self.start_s
        self._num_ended += 1
        self._num_failed += outcome != OK
        if self._num_ended == len(record):
            self._ended.set()

    def _more(self) -> None:
        """Open one more connection when a request waits that none of those on their way is for."""
        under_way = len(self._connecting)
        if len(self._waiting) > under_way and len(self._all) + under_way < self._limit:
            task = self._loop.create_task(self._connect())
            self._connecting.add(task)

    async def _connect(self) -> None:
        target = self._target
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._loop.create_connection(lambda: self._kind(self), target.host, target.port, ssl=self._tls)
        except (OSError, TimeoutError):
            if self._waiting:
                self._outcome(self._waiting.popleft(), UNREACHED)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._connecting.discard(task)
            self._more()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            oldest_s = time.monotonic() - self.start_s - self._timeout_s
            while self._waiting and self._due[self._waiting[0]] < oldest_s:
                self._outcome(self._waiting.popleft(), TIMEOUT)
            for each in list(self._all):
                if each.number >= 0 and self._due[each.number] < oldest_s:
                    self.ended(each, TIMEOUT, is_kept=False)
            if self._on_tick is not None:
                self._on_tick(self._num_ended, self._num_failed)
