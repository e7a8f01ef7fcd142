"""What clients and shards say to each other: a small head that says what it is, and arrays.

In one process heads and arrays are passed as they are; over a socket the head is MessagePack and the arrays follow it, or lie
in memory that both sides map. Every frame has a rising number, by which a lost, repeated or reordered one is noticed: the
link is made anew and what is not acknowledged is sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from gyral.params.spec import TableSpec

PROTOCOL = 1
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Seconds = Annotated[int, Meta(ge=0, lt=1 << 32)]
Arrays = Sequence[np.ndarray]


class Head(msgspec.Struct, tag=True, array_like=True):
    """The first field of all: the number of the frame on its link, from 0."""

    number: int


class Hello(Head):
    """The first frame of a client; `worker` −1: one that only looks. Rows of all frames are in this `coding`.

    `owners` is the map that it knows, so that it brings news of buckets that have moved.
    """

    worker: int
    epoch: int
    sync: str
    digest: str
    coding: str = "f32"
    protocol: int = PROTOCOL
    owners: bytes = b""


class Pull(Head):
    """Array: keys. `clock` is the worker's."""

    table: Count
    clock: Count
    map_version: Count
    num: Count


class Push(Head):
    """Arrays: keys, gradients, and, where `has_base`, the rows that those were computed at.

    `seq` counts the worker's pushes, over tables and shards.
    """

    table: Count
    clock: Count
    seq: Count
    at: Seconds
    map_version: Count
    num: Count
    has_base: bool = False
    factor: float = 1.0
    scale: float = -1.0


class Tick(Head):
    """The worker has finished all clocks before this.

    `scale` : under `bsp`, of the gradients of the clock that it ends; 0: they are not learned from.
    `decided` : what the workers have agreed on at its end.
    """

    clock: Count
    scale: float = 1.0
    decided: bytes = b""


class Beat(Head):
    """The worker is there; `is_urgent`: it waits for what it sent to be durable."""

    is_urgent: bool = False


class Leave(Head):
    """The worker is done, and no longer counts."""


class Ask(Head):
    """A question of whoever runs it: `stats`, `expire` (`value`: event time now), a step of `gyral.params.moving`.

    `export`, `load` : buckets of a table, `value` is table · BUCKETS + the first one (`gyral.params.carried`).
    `meet` : answered when all live workers have asked it of the clock `value`; `body` is what this one says, under `bsp`.
    """

    what: str
    value: int = 0
    body: bytes = b""


class Welcome(Head):
    """`seq` is the highest push of this worker here; `birth` tells one life of a shard without a folder from the next.

    `owners` is its map (`gyral.params.ownership`), of which `map_version` is the highest epoch.
    """

    shard: int
    birth: str
    keeps: bool
    seq: int
    clock: int
    map_version: int
    owners: bytes


class Rows(Head):
    """Arrays: rows, held. `to` is the number of the pull; all pushes of the worker up to `durable` are on the disk."""

    to: int
    durable: int
    num: int


class Done(Head):
    """A push, tick, beat or leave was taken in."""

    to: int
    durable: int


class Parked(Head):
    """A pull waits, and for whom."""

    to: int
    why: str


class Told(Head):
    """Answer to `Ask`, MessagePack."""

    to: int
    body: bytes


class Refused(Head):
    """`kind` is `moved` (the map is the new one), `fenced` (`epoch` is the newest), `input` or `config`; the link ends, but
    after `input`."""

    to: int
    kind: str
    what: str
    where: str = ""
    why: str = ""
    hint: str = ""
    map_version: int = 0
    owners: bytes = b""
    epoch: int = -1


FromClient = Hello | Pull | Push | Tick | Beat | Leave | Ask
FromShard = Welcome | Rows | Done | Parked | Told | Refused
encode = msgspec.msgpack.Encoder().encode
decode_from_client = msgspec.msgpack.Decoder(FromClient).decode
decode_from_shard = msgspec.msgpack.Decoder(FromShard).decode


def digest(specs: Sequence[TableSpec]) -> str:
    """Of the tables: client and shard must mean the same."""
    return hashlib.blake2b(msgspec.msgpack.encode(list(specs)), digest_size=12).hexdigest()
