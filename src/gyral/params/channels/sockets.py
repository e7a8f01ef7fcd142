"""Both ends of a link over a socket: a client's channel, a shard's session, and the loop that answers many of them in turn.

How arrays travel is a `Codec`'s business: after the head (`channels.tcp`), or in memory that both map (`channels.shared`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from gyral.engine.links import Link, LinkLost
from gyral.params import wire
from gyral.params.channels import Channel, Frame
from gyral.params.shard import Session, Shard
from gyral.params.wire import Arrays, Head

LINGER_S = 5.0
"""For the last frames of a session that the shard has ended."""
POLL_S = 0.25


class Codec(Protocol):
    """One side of one link."""

    coding: str

    def into(self, head: bytes, size: int) -> Sequence[Any]:
        """Where to put what follows a head."""

    def received(self, head: bytes) -> tuple[Any, Arrays]:
        """A frame that is complete."""

    def frame(self, head: Head, arrays: Arrays) -> tuple[bytes, Arrays]:
        """A frame to be sent: its head and what follows."""

    def room(self, head: wire.Pull, is_sending: bool) -> np.ndarray | None:
        """Where a shard's rows of a pull would best be; `is_sending`: what was queued before is not sent yet."""


def _read(link: Link, codec: Codec) -> tuple[Any, Arrays] | None:
    """The next frame that is there whole; what cannot be read ends the link."""
    try:
        head = link.read(codec.into)
        return None if head is None else codec.received(head)
    except (msgspec.DecodeError, ValueError, struct.error) as error:
        raise LinkLost(f"the link to {link.peer} is lost", [link.peer], why=f"it sent what cannot be read: {error}") from None


class SocketChannel:
    """A client's link to a shard."""

    def __init__(self, link: Link, codec: Codec) -> None:
        self.link, self._codec = link, codec
        self._lost: LinkLost | None = None

    def send(self, head: Head, arrays: Arrays = ()) -> None:
        """Take a frame along, and send what the system takes."""
        first, rest = self._codec.frame(head, arrays)
        self.link.queue(first, *rest)
        self.link.write()

    def pump(self) -> list[Frame]:
        """Move what can be moved now; the frames that came."""
        if self._lost is not None:
            raise self._lost
        self.link.write()
        frames: list[Frame] = []
        try:
            while (frame := _read(self.link, self._codec)) is not None:
                frames.append(frame)
        except LinkLost as error:
            self._lost = error
            if not frames:
                raise  # else the next call does: what came before counts
        return frames

    def close(self) -> None:
        """May be called twice."""
        self.link.close()


def wait(channels: Sequence[Channel], timeout_s: float) -> None:
    """Until one of some `SocketChannel`s can move something, or after this time."""
    poll = select.poll()
    for channel in channels:
        if isinstance(channel, SocketChannel):
            poll.register(channel.link, select.POLLIN | (select.POLLOUT if channel.link.is_sending else 0))
    poll.poll(timeout_s * 1000)


class SocketSession(Session):
    """A client's link, from the shard's side."""

    def __init__(self, link: Link, codec: Codec, loop: Loop) -> None:
        self.link, self._codec, self._loop = link, codec, loop
        self.closed_at = 0.0

    def put(self, head: Head, arrays: Arrays) -> None:
        first, rest = self._codec.frame(head, arrays)
        self.link.queue(first, *rest)
        self._loop.changed.add(self)

    def room(self, head: wire.Pull) -> np.ndarray | None:
        return self._codec.room(head, self.link.is_sending)

    def close(self) -> None:
        if not self.is_closed:
            super().close()
            self.closed_at = time.monotonic()
            self._loop.changed.add(self)

    def read(self, shard: Shard) -> None:
        """Answer one frame, if there is a whole one."""
        frame = _read(self.link, self._codec)
        if frame is not None:
            if isinstance(frame[0], wire.Hello):
                self._codec.coding = frame[0].coding
            shard.handle(self, *frame, time.monotonic())


class Loop:
    """One thread that runs a shard and answers its sessions.

    Attributes
    ----------
    changed : sessions with something to send, or to be ended.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._poll = select.poll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self.changed: set[SocketSession] = set()
        self._sessions: set[SocketSession] = set()
        self._ending: set[SocketSession] = set()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._is_over = False
        self.watch(self._pipe[0], lambda _: self._call())

    def watch(self, number: int, on_ready: Callable[[int], None]) -> None:
        """Call this when there is something to read from a file number."""
        self._ready[number] = on_ready
        self._poll.register(number, select.POLLIN)

    def forget(self, number: int) -> None:
        """No more."""
        if self._ready.pop(number, None) is not None:
            self._poll.unregister(number)

    def soon(self, call: Callable[[], None]) -> None:
        """Have something done by the loop's thread; from any thread."""
        self._calls.put(call)
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipe[1], b"x")

    def stop(self) -> None:
        """End `run`; from a signal or another thread."""
        self._is_over = True
        self.soon(lambda: None)

    def admit(self, link: Link, codec: Codec) -> None:
        """A client has come."""
        session = SocketSession(link, codec, self)
        self._sessions.add(session)
        self.watch(link.fileno(), lambda event: self._serve(session, event))

    def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Answer until `stop`, or until somebody says that it is over."""
        checked = 0.0
        while not self._is_over:
            now = time.monotonic()
            if now - checked > POLL_S:
                checked = now
                if is_over():
                    return
            delay_s = min(self._shard.work(now), POLL_S)
            self._send()
            for number, event in self._poll.poll(delay_s * 1000):
                ready = self._ready.get(number)
                if ready is not None:
                    ready(event)
                self._send()

    def close(self) -> None:
        """End all sessions; after `run`, by whoever made the loop."""
        for session in list(self._sessions):
            self._end(session)
        for number in self._pipe:
            os.close(number)

    def _call(self) -> None:
        os.read(self._pipe[0], 4096)
        while True:
            try:
                self._calls.get_nowait()()
            except queue.Empty:
                return

    def _serve(self, session: SocketSession, event: int) -> None:
        try:
            if event & select.POLLOUT:
                self.changed.add(session)
            if event & ~select.POLLOUT:
                session.read(self._shard)
        except LinkLost:
            self._end(session)

    def _send(self) -> None:
        """Move what sessions have to send; end those that are done."""
        now = time.monotonic()
        for session in [each for each in self._ending if now - each.closed_at > LINGER_S]:
            self._end(session)
        while self.changed:
            session = self.changed.pop()
            if session.link.fileno() not in self._ready:
                continue
            try:
                session.link.write()
            except LinkLost:
                self._end(session)
                continue
            if session.is_closed and not session.link.is_sending:
                self._end(session)
                continue
            if session.is_closed:
                self._ending.add(session)
            wanted = (0 if session.is_closed else select.POLLIN) | (select.POLLOUT if session.link.is_sending else 0)
            self._poll.modify(session.link.fileno(), wanted)

    def _end(self, session: SocketSession) -> None:
        self._ending.discard(session)
        self._sessions.discard(session)
        self.forget(session.link.fileno())
        session.is_closed = True
        session.link.close()
