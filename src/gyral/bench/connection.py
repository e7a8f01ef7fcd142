"""One keep-alive connection of the generator: a request at a time, its answer parsed by httptools, its stream by lines.

Asking by this costs 20 to 30 µs of CPU a request; asyncio's streams as in `serve/client.py` cost twice that, which on a shared
machine is the server's.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httptools
import msgspec

from gyral.bench.record import CUT, MALFORMED, OK, REFUSED, RESET

if TYPE_CHECKING:
    from gyral.bench.drive import Drive

DATA = b"data:"
DONE = b"[DONE]"
MAX_EVENT_BYTES = 1 << 20


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    """What is looked at in an event of a stream."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class Connection(asyncio.Protocol):
    """A connection of a drive; `number` is the request that it carries, -1 when none."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.number = -1
        self.num_sent = 0
        self.transport: asyncio.Transport | None = None
        self._parser: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpResponseParser(self)
        self.drive.opened(self)

    def send(self, number: int, request: bytes) -> None:
        """Write a request."""
        self.number = number
        self.num_sent += 1
        self.transport.write(request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.drive.ended(self, MALFORMED, is_kept=False)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self.number >= 0:
            self.drive.record.status[self.number] = status
            outcome = self.outcome(status)
            self.drive.ended(self, outcome, is_kept=self._parser.should_keep_alive())

    def outcome(self, status: int) -> int:
        """What an answer that came whole is."""
        return OK if status < 300 else REFUSED

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.drive.lost(self)
        if self.number >= 0:
            self.drive.ended(self, RESET, is_kept=False)


class StreamConnection(Connection):
    """A connection whose answers are server-sent events, each token of which is timed."""

    def __init__(self, drive: Drive) -> None:
        super().__init__(drive)
        self._begin()

    def _begin(self) -> None:
        self._rest = b""
        self._last_s = 0.0
        self._num_tokens = self._told_tokens = 0
        self._is_done = self._is_wrong = False

    def on_body(self, data: bytes) -> None:
        if self.number < 0 or self._parser.get_status_code() != 200:
            return
        now_s = time.monotonic() - self.drive.start_s
        text = (self._rest + data).replace(b"\r\n", b"\n")
        *events, self._rest = text.split(b"\n\n")
        for event in events:
            self._take(event, now_s)
        if len(self._rest) > MAX_EVENT_BYTES:
            self._rest, self._is_wrong = b"", True

    def _take(self, event: bytes, now_s: float) -> None:
        data = b"\n".join(line[len(DATA) :].strip() for line in event.split(b"\n") if line.startswith(DATA))
        if not data:
            return
        if data == DONE:
            self._is_done = True
            return
        try:
            told = _decode(data)
        except msgspec.DecodeError:
            self._is_wrong = True
            return
        self._is_wrong |= told.error is not None
        if told.usage is not None:
            self._told_tokens = max(told.usage.completion_tokens, 0)
        if any(each.text or (each.delta and (each.delta.content or each.delta.reasoning_content)) for each in told.choices):
            if self._num_tokens:
                self.drive.record.gaps_s.append(now_s - self._last_s)
            else:
                self.drive.record.first_s[self.number] = now_s
            self._num_tokens += 1
            self._last_s = now_s

    def outcome(self, status: int) -> int:
        self.drive.record.tokens[self.number] = min(self._told_tokens or self._num_tokens, 0xFFFFFFFF)
        is_whole = self._is_done and not self._is_wrong
        self._begin()
        return REFUSED if status >= 300 else OK if is_whole else CUT
