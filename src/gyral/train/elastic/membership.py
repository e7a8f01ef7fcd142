"""Who trains together, as a member sees it: one seam, and the ways to know.

- `contact.Contact`: the own coordinator; members come and go.
- `lighthouse.Lighthouse`: the same by torchft's lighthouse (`train.elastic.membership = "torchft"`).
- `Fixed`: whoever was started together (torchrun, a scheduler): a member that is lost ends the run of the others, which can be
  started again. Bitwise training by a fixed set needs no more.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from gyral.engine.listening import LOOPBACK, Listener
from gyral.errors import RankError
from gyral.train.elastic.messages import Epoch, Peer, Stand


class Over(Exception):
    """The run has ended without us: a member that came late has nothing to do."""


class Membership(Protocol):
    """What the strategy asks.

    Attributes
    ----------
    own : our id.
    secret : of the job, for links.
    timeout_s : the longest wait for anything.
    """

    own: str
    secret: bytes
    timeout_s: float

    def begin(self, listener: Listener) -> None:
        """We can be reached there."""

    def settle(self, stand: Stand, epoch: int, why: str) -> Epoch:
        """Stand at a boundary until an epoch begins; `why`: what was wrong with the last one.

        It may be the one that stood (its number says so), where nothing was wrong.
        """

    def is_broken(self) -> str:
        """Why the epoch that stands does not hold any more; empty: it does."""

    def is_pending(self) -> bool:
        """Whether newcomers want all to meet at the next boundary."""

    def waits(self, names: Sequence[str], moved: int) -> None:
        """Tell who is waited for; nobody: we work."""

    def record(self, step: int, line: bytes) -> None:
        """One committed step, for the ledger."""

    def ended(self) -> bool:
        """All steps are done here: wait until the run has ended (False) or it is ours to write what it made (True)."""

    def done(self) -> None:
        """It is written."""

    def close(self) -> None:
        """Leave."""


def job_secret() -> bytes:
    """The secret of the job, from the environment.

    Raises
    ------
    RankError : there is none.
    """
    given = os.environ.get("GYRAL_SECRET", "")
    if not given:
        raise RankError("`GYRAL_SECRET` is not set", hint="every member of a job needs the same long random word in it")
    return given.encode()


class Fixed:
    """Members that are known from the start, who find each other in a torch store (`MASTER_ADDR`, `MASTER_PORT`).

    Parameters
    ----------
    ledger : a file that the first one appends to.
    """

    def __init__(self, ledger: Path, *, timeout_s: float) -> None:
        self.rank, self._count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.own, self.timeout_s, self._ledger = str(self.rank), timeout_s, ledger
        self.secret = b""
        self._has_begun = False

    def begin(self, listener: Listener) -> None:
        """Tell the others where we are."""

    def settle(self, stand: Stand, epoch: int, why: str) -> Epoch:
        """The one epoch there is."""
        if self._has_begun:
            raise RankError("a member was lost", why=why, hint="`--parallel elastic=N` without torchrun goes on without it")
        self._has_begun = True
        return Epoch(1, self._peers, stand, self._peers[0].id, [])

    def meet(self, listener_of: type[Listener]) -> Listener:
        """Listen, and learn where the others do."""
        import secrets
        from datetime import timedelta

        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        is_server = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self._store = TCPStore(host, port, self._count, is_server, timeout=timedelta(seconds=self.timeout_s))
        if self.rank == 0:
            self._store.set("gyral/secret", secrets.token_hex(32))
        self.secret = self._store.get("gyral/secret")
        is_local = socket.gethostbyname(host).startswith("127.")
        listener = listener_of(self.secret, host=LOOPBACK if is_local else socket.gethostbyname(socket.gethostname()))
        own = Peer(self.own, f"rank {self.rank}", listener.host, listener.port)
        self._store.set(f"gyral/peer/{self.rank}", msgspec.json.encode(own).decode())
        self._peers = [
            msgspec.json.decode(self._store.get(f"gyral/peer/{rank}"), type=Peer) for rank in range(self._count)
        ]  # fmt: skip
        return listener

    def is_broken(self) -> str:
        """It never is."""
        return ""

    def is_pending(self) -> bool:
        """Nobody comes."""
        return False

    def waits(self, names: Sequence[str], moved: int) -> None:
        """Nobody wants to know."""

    def record(self, step: int, line: bytes) -> None:
        """The first one writes."""
        if self.rank == 0:
            with open(self._ledger, "ab", buffering=0) as file:
                file.write(line + b"\n")

    def ended(self) -> bool:
        """The first one writes what was made."""
        return self.rank == 0

    def done(self) -> None:
        """Nobody waits for it."""

    def close(self) -> None:
        """Nothing is open."""
