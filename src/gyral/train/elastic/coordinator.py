"""The coordinator: the one process that members report to. It loads no torch, and may die at any time.

    python -m gyral.train.elastic.coordinator FOLDER     settings and the socket come from the environment (`launch`)

What it knows is soft: after its death the launcher starts another, the members come back with where they stand, and training
goes on meanwhile. Two things are on the disk: the number of the last epoch, written before the epoch is told, so that none is
used twice; and the ledger, which it writes alone. A step's line is taken once and in order, from whichever member says it
first, so the ledger has every committed step exactly once even when the member that used to say it dies in between. Had the
members written it themselves, one that is stopped between looking at the file and writing to it would write a second line when
it goes on.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from gyral.engine.links import Link, LinkLost
from gyral.engine.listening import Listener
from gyral.errors import InputError
from gyral.faults import fail_point
from gyral.files import write_atomic
from gyral.train.elastic.membership import job_secret
from gyral.train.elastic.messages import Beat, Done, Epoch, Hello, Pulse, Ready, Record, decode_at_coordinator, encode
from gyral.train.elastic.quorum import Quorum
from gyral.train.saved import LEDGER

EPOCH = "epoch"
TICK_S = 0.02


class Settings(msgspec.Struct, frozen=True):
    """What a coordinator is told; `socket` is the number of a socket that it inherits and that listens already."""

    workers: int
    heartbeat_s: float
    timeout_s: float
    start_s: float
    socket: int


class Ledger:
    """A file of one line a step, each once and in order.

    Parameters
    ----------
    path : is made, or gone on with: a last line that was cut short is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        self._waiting: dict[int, bytes] = {}
        whole, self.steps = 0, 0
        self._file.seek(0)
        for line in self._file.readlines():
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            self.steps = _step_of(line, path) + 1
        self._file.truncate(whole)

    def add(self, step: int, line: bytes) -> bool:
        """Write what is next; whether anything was."""
        if step >= self.steps:
            self._waiting[step] = line
        before = self.steps
        while (next_line := self._waiting.pop(self.steps, None)) is not None:
            fail_point("elastic.ledger")
            self._file.write(next_line + b"\n")
            self.steps += 1
        return self.steps > before

    def close(self) -> None:
        """Flush it to the disk."""
        os.fsync(self._file.fileno())
        self._file.close()


class Coordinator:
    """Sockets, clock and disk around a `Quorum`.

    Parameters
    ----------
    folder : of the run.
    """

    def __init__(self, folder: Path, settings: Settings, secret: bytes, bound: socket.socket | None = None) -> None:
        self._path = folder / EPOCH
        last = int(self._path.read_text()) if self._path.exists() else 0
        self.quorum = Quorum(
            settings.workers, heartbeat_s=settings.heartbeat_s, timeout_s=settings.timeout_s, start_s=settings.start_s,
            epoch=last, now=time.monotonic(),
        )  # fmt: skip
        self.ledger = Ledger(folder / LEDGER)
        self._links: dict[Link, str] = {}
        self._came: queue.Queue[Link] = queue.Queue()
        self._wake_out, self._wake_in = os.pipe()
        self.listener = Listener(secret, bound=bound, on_link=self._on_link)
        self._said: Pulse | None = None

    def run(self) -> None:
        """Until the run has ended and all have left; the launcher may end it earlier."""
        parent = os.getppid()
        while (not self.quorum.is_done and os.getppid() == parent) or self._links:
            self._look()
        self.listener.close()
        self.ledger.close()

    def _on_link(self, link: Link) -> None:
        self._came.put(link)
        os.write(self._wake_in, b".")

    def _look(self) -> None:
        """Hear everybody before judging anybody: who was silent while we slept has its beats waiting in our socket."""
        watched: list[Any] = [self._wake_out, *self._links]
        readable, _, _ = select.select(watched, [], [], TICK_S)
        if self._wake_out in readable:
            os.read(self._wake_out, 4096)
            while not self._came.empty():
                self._links[self._came.get()] = ""
        for link in [link for link in self._links if link in readable]:
            try:
                while (head := link.read()) is not None:
                    self._hear(link, head)
            except (LinkLost, msgspec.MsgspecError):
                self._drop(link)
        if (epoch := self.quorum.tick(time.monotonic())) is not None:
            write_atomic(self._path, str(epoch.number))
            self._print(f"epoch {epoch.number} from step {epoch.stand.step}: {', '.join(peer.name for peer in epoch.members)}")
            fail_point("elastic.epoch")
            inside = {peer.id for peer in epoch.members}
            self._tell([link for link, id in self._links.items() if id in inside], epoch)
        for id in self.quorum.left_out:
            for link in [link for link, whose in self._links.items() if whose == id]:
                self._drop(link)
        self.quorum.left_out.clear()
        pulse = self._pulse()
        if pulse != self._said:
            if pulse.broken and (self._said is None or pulse.broken != self._said.broken):
                self._print(f"epoch {pulse.epoch} is over: {pulse.broken}")
            self._said = pulse
            self._tell(list(self._links), pulse)

    def _hear(self, link: Link, head: bytes) -> None:
        message, now = decode_at_coordinator(head), time.monotonic()
        if isinstance(message, Hello):
            for other in [other for other, id in self._links.items() if id == message.peer.id and other is not link]:
                self._links[other] = ""
                self._drop(other)
            self._links[link] = message.peer.id
            self.quorum.hello(message, now)
        id = self._links[link]
        if isinstance(message, Beat):
            self.quorum.beat(id, message, now)
            self._tell([link], self._pulse())
        elif isinstance(message, Ready):
            self.quorum.ready(id, message, now)
        elif isinstance(message, Record):
            self.ledger.add(message.step, message.line)
        elif isinstance(message, Done):
            self.quorum.is_done = True

    def _pulse(self) -> Pulse:
        quorum = self.quorum
        number = quorum.epoch.number if quorum.epoch is not None else 0
        return Pulse(number, quorum.broken, quorum.is_pending, self.ledger.steps, quorum.writer, quorum.is_done)

    def _tell(self, links: list[Link], message: Pulse | Epoch) -> None:
        """Never waits: who takes nothing for long is silent as well, and is left out for that."""
        head = encode(message)
        for link in links:
            try:
                link.queue(head)
                link.write()
            except LinkLost:
                self._drop(link)

    def _drop(self, link: Link) -> None:
        id = self._links.pop(link, "")
        link.close()
        if id:
            self.quorum.lost(id, time.monotonic())

    def _print(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _step_of(line: bytes, path: Path) -> int:
    try:
        return msgspec.json.decode(line, type=_Line).step
    except msgspec.MsgspecError as error:
        raise InputError(
            "a line of the ledger is no step", where=str(path), why=str(error), hint="is it another file?"
        ) from None


class _Line(msgspec.Struct):
    step: int


def main(folder: str) -> None:
    """Serve one run."""
    settings = msgspec.json.decode(os.environ["GYRAL_COORDINATOR"], type=Settings)
    bound = socket.socket(fileno=settings.socket)
    Coordinator(Path(folder), settings, job_secret(), bound).run()


if __name__ == "__main__":
    main(sys.argv[1])
