"""What members and the coordinator say to each other: msgpack in heads of frames (`gyral.engine.links`).

A *stand* is where a member's weights are: the number of steps done, and the epoch in which the last of them was reduced. Of two
stands the later step is the truth, and of equal steps the later epoch (`quorum` says why).
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Stand(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Where weights stand; 0, 0: as they were built."""

    step: int = 0
    epoch: int = 0


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """A member as others reach it."""

    id: str
    name: str
    host: str
    port: int


class Hello(msgspec.Struct, tag=True, frozen=True):
    """A member introduces itself, at first and after each loss of the coordinator.

    Attributes
    ----------
    epoch, others : the epoch it is in, and the ids of those in it; 0 and none at first.
    """

    peer: Peer
    stand: Stand
    epoch: int
    others: list[str]


class Beat(msgspec.Struct, tag=True, frozen=True):
    """A member lives.

    Attributes
    ----------
    phase : `work`: it computes; `wait`: for those in `waits_for`; `end`: all its steps are done.
    moved : bytes over its links so far.
    """

    phase: Literal["work", "wait", "end"]
    epoch: int
    moved: int
    waits_for: list[str]


class Ready(msgspec.Struct, tag=True, frozen=True):
    """A member stands at a step's boundary and waits for the next epoch.

    Attributes
    ----------
    epoch : the one it was in.
    why : the one that it was in has failed; empty: it only came to meet newcomers.
    """

    stand: Stand
    epoch: int
    why: str = ""


class Record(msgspec.Struct, tag=True, frozen=True):
    """A line of the ledger."""

    step: int
    line: bytes


class Done(msgspec.Struct, tag=True, frozen=True):
    """What the run is for has been written."""


class Pulse(msgspec.Struct, tag=True, frozen=True):
    """The coordinator's answer to each beat, and its word when something changes.

    Attributes
    ----------
    epoch : the one that stands.
    broken : why it does not hold any more; empty: it does.
    is_pending : somebody wants to join: all meet at the next boundary.
    recorded : steps that the ledger has.
    writer : id of the member that ends the run.
    is_done : the run has ended.
    """

    epoch: int
    broken: str
    is_pending: bool
    recorded: int
    writer: str
    is_done: bool


class Epoch(msgspec.Struct, tag=True, frozen=True):
    """A membership that stands until somebody is lost or joins.

    Attributes
    ----------
    number : never used twice in a run.
    members : in the order in which they take their parts; the first one writes and tells.
    stand : where all are once those in `healed` have got the weights of `source`.
    """

    number: int
    members: list[Peer]
    stand: Stand
    source: str
    healed: list[str]


ToCoordinator = Hello | Beat | Ready | Record | Done
ToMember = Pulse | Epoch

_encoder = msgspec.msgpack.Encoder()
_to_coordinator = msgspec.msgpack.Decoder(ToCoordinator)
_to_member = msgspec.msgpack.Decoder(ToMember)
encode = _encoder.encode
decode_at_coordinator = _to_coordinator.decode
decode_at_member = _to_member.decode
