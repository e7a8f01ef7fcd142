"""A member's side of the coordinator: a thread that says that we live, hears what changes, and finds it again after its death.

Steps need no word of the coordinator: while nothing changes the epoch stands, and a coordinator that is gone for a while holds
nobody up. Lines of the ledger are kept until it has told that they are written, and said again to the next one; it takes each
step once.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

from gyral.engine.links import Link, LinkLost
from gyral.engine.listening import Listener, connect
from gyral.errors import RankError
from gyral.train.elastic.membership import Over, job_secret
from gyral.train.elastic.messages import Beat, Done, Epoch, Hello, Peer, Pulse, Ready, Record, Stand, decode_at_member, encode

BEATS = 4
"""In a heartbeat."""
RETRY_S = 0.05
SILENCE = 8
"""Heartbeats without an answer, after which the connection is given up: the coordinator answers every beat."""


class Contact:
    """The membership that the own coordinator keeps.

    Parameters
    ----------
    address : of the coordinator; the launcher holds it open while a new one starts.
    advertised : host and port under which others reach our listener; None: its own.
    """

    def __init__(
        self, address: tuple[str, int], *, heartbeat_s: float, timeout_s: float, advertised: tuple[str, int] | None = None
    ) -> None:
        self.own = os.urandom(8).hex()
        self.secret = job_secret()
        self.timeout_s, self._heartbeat_s, self._address, self._advertised = timeout_s, heartbeat_s, address, advertised
        self._changed = threading.Condition()
        self._to_say: list[bytes] = []
        self._records: dict[int, bytes] = {}
        self._pulse = Pulse(0, "", False, 0, "", False)
        self._stand, self._epoch = Stand(), 0
        self._others: list[str] = []
        self._settled: Epoch | None = None
        self._ready: Ready | None = None
        self._phase: Literal["work", "wait", "end"] = "work"
        self._waits: list[str] = []
        self._moved = 0
        self._is_done = self._is_closed = self._is_joined = False
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        self._thread = threading.Thread(target=self._live, name="contact", daemon=True)

    def begin(self, listener: Listener) -> None:
        """Say hello, and beat from now on."""
        host, port = self._advertised or (listener.host, listener.port)
        self._peer = Peer(self.own, f"rank {os.environ.get('RANK', '0')} (process {os.getpid()})", host, port)
        self._thread.start()

    def settle(self, stand: Stand, epoch: int, why: str) -> Epoch:
        """Wait for the next epoch.

        Raises
        ------
        Over : the run has ended meanwhile.
        RankError : no epoch began in time.
        """
        with self._changed:
            self._stand, self._settled = stand, None
            self._ready = Ready(stand, epoch, why)
            self._phase, self._waits = "wait", []
            self._say(self._ready)
            end = time.monotonic() + self.timeout_s
            while (found := self._settled) is None:
                if self._pulse.is_done:
                    raise Over
                if self._pulse.writer:  # the others have done all steps, and one of them writes
                    end = time.monotonic() + self.timeout_s
                if not self._changed.wait(end - time.monotonic()) and time.monotonic() > end:
                    state = "" if self._is_joined else "the coordinator does not answer"
                    raise RankError(f"no members were settled within {self.timeout_s:g} s", why=state)
            self._ready, self._epoch, self._phase = None, found.number, "work"
            self._others = [peer.id for peer in found.members]
            for number, line in sorted(self._records.items()):  # whoever wrote them may be gone
                self._say(Record(number, line))
            return found

    def is_broken(self) -> str:
        """What the coordinator said of our epoch."""
        pulse = self._pulse
        if pulse.epoch == self._epoch:
            return pulse.broken
        return f"epoch {pulse.epoch} stands" if pulse.epoch > self._epoch else ""

    def is_pending(self) -> bool:
        """Whether somebody waits to join."""
        return self._pulse.is_pending and self._pulse.epoch in (0, self._epoch)

    def waits(self, names: Sequence[str], moved: int) -> None:
        """For the next beat."""
        self._phase, self._waits, self._moved = "wait" if names else "work", list(names), moved

    def record(self, step: int, line: bytes) -> None:
        """Keep a line until the ledger has it; the first member says it at once."""
        with self._changed:
            self._records[step] = line
            if self._others and self._others[0] == self.own:
                self._say(Record(step, line))

    def ended(self) -> bool:
        """Wait for our turn to write, or for the end."""
        with self._changed:
            self._phase = "end"
            end = time.monotonic() + self.timeout_s
            self._say(self._beat())
            for number, line in sorted(self._records.items()):
                self._say(Record(number, line))
            while not self._pulse.is_done:
                if self._pulse.writer == self.own and not self._records:
                    return True
                if self._pulse.writer not in ("", self.own):
                    end = time.monotonic() + self.timeout_s  # somebody who lives is writing
                if not self._changed.wait(max(end - time.monotonic(), 0.0)) and time.monotonic() > end:
                    missing = f"the ledger lacks steps {sorted(self._records)[:3]}" if self._records else ""
                    raise RankError(f"the run did not end within {self.timeout_s:g} s", why=missing)
            return False

    def done(self) -> None:
        """Say it until it was heard."""
        with self._changed:
            self._is_done = True
            self._say(Done())
            end = time.monotonic() + self.timeout_s
            while not self._pulse.is_done and time.monotonic() < end:
                self._changed.wait(self._heartbeat_s)

    def close(self) -> None:
        """Leave without a word: the end of the connection says it."""
        self._is_closed = True
        self._wake()
        self._thread.join(timeout=2.0)

    def _say(self, message: Any) -> None:
        self._to_say.append(encode(message))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_in, b".")

    def _beat(self) -> Beat:
        return Beat(self._phase, self._epoch, self._moved, self._waits)

    def _live(self) -> None:
        while not self._is_closed:
            try:
                link = connect(
                    self._address, self.secret, peer="the coordinator", timeout_s=self.timeout_s,
                    is_over=lambda: "we leave" if self._is_closed else "",
                )  # fmt: skip
            except LinkLost:
                time.sleep(RETRY_S)
                continue
            try:
                self._talk(link)
            except LinkLost:
                time.sleep(RETRY_S)
            finally:
                self._is_joined = False
                link.close()

    def _introduce(self) -> None:
        """All that a new coordinator has to know."""
        with self._changed:
            self._to_say = [encode(Hello(self._peer, self._stand, self._epoch, self._others)), encode(self._beat())]
            self._to_say += [encode(Record(number, line)) for number, line in sorted(self._records.items())]
            if self._ready is not None:
                self._to_say.append(encode(self._ready))
            if self._is_done:
                self._to_say.append(encode(Done()))
            self._is_joined = True

    def _talk(self, link: Link) -> None:
        self._introduce()
        interval = self._heartbeat_s / BEATS
        due, heard = time.monotonic(), time.monotonic()
        while not self._is_closed:
            now = time.monotonic()
            if now >= due:
                due = now + interval
                link.queue(encode(self._beat()))
            with self._changed:
                said, self._to_say = self._to_say, []
            for each in said:
                link.queue(each)
            link.write()
            if now - heard > SILENCE * self._heartbeat_s:
                raise LinkLost("the coordinator does not answer", ["the coordinator"])
            watched: list[Any] = [link, self._wake_out]
            readable, _, _ = select.select(watched, [link] if link.is_sending else [], [], max(due - now, 0.001))
            if self._wake_out in readable:
                os.read(self._wake_out, 4096)
            while link in readable and (head := link.read()) is not None:
                heard = time.monotonic()
                self._hear(decode_at_member(head))

    def _hear(self, message: Pulse | Epoch) -> None:
        with self._changed:
            if isinstance(message, Epoch):
                if self._ready is not None:
                    self._settled = message
            else:
                self._pulse = message
                for step in [step for step in self._records if step < message.recorded]:
                    del self._records[step]
            self._changed.notify_all()
