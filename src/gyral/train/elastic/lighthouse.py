"""Membership by torchft: its lighthouse says who takes part, and everything else stays as it is.

    python -m gyral.train.elastic.lighthouse ADDRESS HEARTBEAT_S TIMEOUT_S     serves one run

A quorum of torchft is asked for when a link is lost, and once a heartbeat to let newcomers in (0.4–1.6 ms on loopback;
torchft's own Manager asks in every step). Each member says in it where it stands, so all who get the same quorum see who is
ahead, give the epoch the same number, and heal from the same one, as `quorum` does. While nobody came or went and nothing
failed the epoch stays, and so do its links. `TORCHFT_LIGHTHOUSE` names a lighthouse that is there already.

Taken is the lighthouse, not torchft's `Manager`: that one listens on all interfaces, serves pickled weights by HTTP, and
knows a member's step but not in which epoch it was made, so two members that did the same step apart would both be right.

What the own coordinator does better:

- A kill costs a heartbeat, as the lighthouse hears no connection end. Who is stopped is missed when nothing moves for two
  heartbeats, a time that doubles when nobody was gone: only the links know.
- Members write the ledger, the oldest one each step. Who becomes the oldest first puts a copy of the file in its place, so what
  a stopped one still writes goes nowhere.
- A lighthouse knows no secret: whoever reaches its port can disturb who takes part, but gets no link.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from gyral.engine.listening import Listener
from gyral.engine.ranks import AGAIN
from gyral.errors import MissingExtra, RankError
from gyral.files import write_atomic
from gyral.train.elastic.coordinator import Ledger
from gyral.train.elastic.membership import Over, job_secret
from gyral.train.elastic.messages import Epoch, Peer, Stand

AT = "TORCHFT_LIGHTHOUSE"
BEATS = 4
"""In a heartbeat."""
RETRY_S = 0.05
CONNECT_S = 2.0
TOLD_LINES = 4
"""Lines of the ledger that a member tells the others: whoever writes it is one step behind at most."""
KEPT_LINES = 256


class Said(msgspec.Struct, frozen=True):
    """What a member says when it asks for a quorum.

    Attributes
    ----------
    epoch, others : the last one it was in, 0 at first, and the ids of those in it.
    is_whole : nothing is wrong with that one.
    quorum : number of the last quorum it was in.
    is_tired : it has waited long enough for all workers.
    is_sure : it has waited for those that the lighthouse may not have heard yet.
    lines : its last lines of the ledger, by step.
    """

    peer: Peer
    stand: Stand
    epoch: int
    others: list[str]
    is_whole: bool
    quorum: int
    is_tired: bool
    is_sure: bool
    lines: list[tuple[int, str]]


def settled(said: dict[str, Said], quorum_id: int, workers: int) -> Epoch | None:
    """The epoch of those in a quorum, the same for whoever computes it; None: ask again.

    Its number is that of the last one where that one still holds. A run that has not begun waits for its workers. A lighthouse
    that was started anew knows only those that it has heard since, and would let two members go on apart, each alone: somebody
    is missing and the quorums' number has not risen. Then all wait until whoever lives has been heard.
    """
    order = sorted(said)
    last = max(each.epoch for each in said.values())
    if not last and len(order) < workers and not any(each.is_tired for each in said.values()):
        return None
    is_missing = any(set(each.others) - set(order) for each in said.values())
    is_anew = quorum_id <= max(each.quorum for each in said.values())
    if is_missing and is_anew and not all(each.is_sure for each in said.values()):
        return None
    is_same = last and all(each.is_whole and each.epoch == last and sorted(each.others) == order for each in said.values())
    truth = max(each.stand for each in said.values())
    source = next(id for id in order if said[id].stand == truth)
    healed = [id for id in order if said[id].stand != truth]
    number = last if is_same and not healed else max(last + 1, quorum_id)
    return Epoch(number, [said[id].peer for id in order], truth, source, healed)


class Lighthouse:
    """The membership that a lighthouse of torchft keeps.

    Parameters
    ----------
    address : of the lighthouse, `http://HOST:PORT`.
    ledger, result : files of the run; the run has ended when the latter is there.
    workers : members that a new run waits for, `start_s` at most.

    Raises
    ------
    MissingExtra : torchft is not installed.
    """

    def __init__(
        self, address: str, ledger: Path, result: Path, *, workers: int, heartbeat_s: float, timeout_s: float, start_s: float,
        advertised: tuple[str, int] | None = None,
    ) -> None:  # fmt: skip
        self._client_of = client_of()
        self.own = f"{time.time_ns():020d}-{os.getpid()}"  # members are ordered by these: the oldest is the first
        self.secret, self.timeout_s = job_secret(), timeout_s
        self._address, self._ledger_path, self._result, self._workers = address, ledger, result, workers
        self._heartbeat_s, self._start_s, self._advertised = heartbeat_s, start_s, advertised
        self._last, self._quorum = 0, 0
        self._others: list[str] = []
        self._lines: dict[int, str] = {}
        self._ledger: Ledger | None = None
        self._lock = -1
        self._patience_s = 2 * heartbeat_s
        self._moved, self._waiting_since, self._met = -1, 0.0, 0.0
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def begin(self, listener: Listener) -> None:
        """Beat from now on."""
        host, port = self._advertised or (listener.host, listener.port)
        self._peer = Peer(self.own, f"rank {os.environ.get('RANK', '0')} (process {os.getpid()})", host, port)
        self._begun = time.monotonic()
        self._thread.start()

    def settle(self, stand: Stand, epoch: int, why: str) -> Epoch:
        """Ask until an epoch stands.

        Raises
        ------
        Over : the run has ended meanwhile.
        RankError : the lighthouse gave no quorum in time.
        """
        is_whole, is_sure = not why and epoch == self._last, False
        while True:
            is_tired = time.monotonic() - self._begun > self._start_s
            lines = sorted(self._lines.items())[-TOLD_LINES:]
            quorum_id, said = self._asked(
                Said(self._peer, stand, self._last, self._others, is_whole, self._quorum, is_tired, is_sure, lines)
            )
            found = settled(said, quorum_id, self._workers)
            if found is not None:
                break
            time.sleep(2 * self._heartbeat_s if self._last else RETRY_S)
            is_sure = bool(self._last)
        others = [peer.id for peer in found.members]
        if why and others == self._others:  # who was waited for lives: it only takes long
            self._patience_s = min(2 * self._patience_s, self.timeout_s)
        is_new = found.number != self._last
        self._last, self._others, self._quorum = found.number, others, quorum_id
        self._met, self._waiting_since = time.monotonic(), 0.0
        if is_new:
            self._take_ledger(others[0], {step: line for each in said.values() for step, line in each.lines})
        return found

    def is_broken(self) -> str:
        """Whether nothing has moved for long while we wait."""
        waited = time.monotonic() - self._waiting_since if self._waiting_since else 0.0
        return f"nothing moved for {waited:.1f} s" if waited > self._patience_s else ""

    def is_pending(self) -> bool:
        """Whether it is time to ask who wants to join."""
        return time.monotonic() - self._met > self._heartbeat_s

    def waits(self, names: Sequence[str], moved: int) -> None:
        """Remember since when nothing has moved."""
        if not names:
            self._waiting_since = 0.0
        elif not self._waiting_since or moved != self._moved:
            self._waiting_since, self._moved = time.monotonic(), moved

    def record(self, step: int, line: bytes) -> None:
        """The first member writes; all keep the last ones, should it die before."""
        self._lines[step] = line.decode()
        while len(self._lines) > KEPT_LINES:
            del self._lines[min(self._lines)]
        if self._ledger is not None:
            self._ledger.add(step, line)

    def ended(self) -> bool:
        """Whoever gets the lock first writes what was made; when it dies, the next one."""
        self._lock = os.open(self._result.with_name("writer.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        end = time.monotonic() + self.timeout_s
        while not self._result.exists():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ledger = self._take_ledger(self.own, {})
                if ledger is not None and ledger.steps <= max(self._lines, default=-1):
                    raise RankError(f"the ledger lacks step {ledger.steps}", where=str(self._ledger_path))
                return not self._result.exists()
            if time.monotonic() > end:
                raise RankError(f"the run did not end within {self.timeout_s:g} s", why="another member writes its result")
            time.sleep(RETRY_S)
        return False

    def done(self) -> None:
        """The result is there for all to see."""

    def close(self) -> None:
        """Stop beating, which says it."""
        self._is_closed.set()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self._lock >= 0:
            os.close(self._lock)

    def _take_ledger(self, first: str, lines: dict[int, str]) -> Ledger | None:
        """Write it from now on, or leave that to another; who wrote it before has the old file open, and not this one."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if first == self.own:
            path = self._ledger_path
            write_atomic(path, path.read_bytes() if path.exists() else b"")
            self._ledger = Ledger(path)
            for step, line in sorted({**lines, **self._lines}.items()):
                self._ledger.add(step, line.encode())
        return self._ledger

    def _asked(self, own: Said) -> tuple[int, dict[str, Said]]:
        """The next quorum that we are in."""
        answers: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._ask, args=[own, answers], name="quorum", daemon=True).start()
        while True:
            if self._result.exists():
                raise Over
            try:
                found = answers.get(timeout=RETRY_S)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                raise RankError(
                    f"no members were settled within {self.timeout_s:g} s", where=self._address, why=str(found)[:200]
                ) from None
            return int(found.quorum_id), {
                each.replica_id: msgspec.convert(each.data, Said) for each in found.participants
            }  # fmt: skip

    def _ask(self, own: Said, answers: queue.Queue[Any]) -> None:
        """In a thread, so that the end of the run is seen meanwhile; a lighthouse that is gone may come back."""
        end = time.monotonic() + self.timeout_s
        data = msgspec.to_builtins(own)
        while True:
            try:
                client = self._client_of(self._address, timedelta(seconds=CONNECT_S))
                left = timedelta(seconds=max(end - time.monotonic(), 0.1))
                answers.put(
                    client.quorum(
                        self.own, left, address="", store_address="", step=own.stand.step, world_size=1, shrink_only=False,
                        data=data,
                    )
                )  # fmt: skip
                return
            except (RuntimeError, TimeoutError) as error:
                if time.monotonic() > end or self._is_closed.wait(RETRY_S):
                    answers.put(error)
                    return

    def _beat(self) -> None:
        client = None
        while not self._is_closed.wait(self._heartbeat_s / BEATS if client is not None else RETRY_S):
            try:
                client = client or self._client_of(self._address, timedelta(seconds=CONNECT_S))
                client.heartbeat(self.own, timedelta(seconds=self._heartbeat_s))
            except (RuntimeError, TimeoutError):
                client = None


def client_of() -> Any:
    """torchft's class of clients.

    Raises
    ------
    MissingExtra : torchft is not installed.
    """
    os.environ.setdefault("RUST_LOG", "error")  # else some lines a quorum
    try:
        from torchft.coordination import LighthouseClient
    except ImportError:
        raise MissingExtra("torchft", "torchft", "`train.elastic.membership = 'torchft'`") from None
    return LighthouseClient


def main(address: str, heartbeat_s: str, timeout_s: str) -> None:
    """Serve one run until its launcher ends."""
    client_of()
    from torchft.coordination import LighthouseServer

    parent = os.getppid()
    try:
        server = LighthouseServer(
            bind=address, min_replicas=1, join_timeout_ms=int(1000 * float(timeout_s)), quorum_tick_ms=20,
            heartbeat_timeout_ms=int(1000 * float(heartbeat_s)),
        )  # fmt: skip
    except RuntimeError as error:
        print(f"error: no lighthouse at {address}: {error}", file=sys.stderr)
        sys.exit(AGAIN)
    while os.getppid() == parent:
        time.sleep(0.2)
    server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
