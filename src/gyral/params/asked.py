"""What a client has under way: pulls, pushes and questions, and what it knows of each shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gyral.errors import GyralError
from gyral.params.batch import Batch
from gyral.params.channels import Channel
from gyral.params.routing_kernel import scattered

Order = np.ndarray | None
"""Positions of a shard's keys; None: all, as they are."""
BACKOFF_S, MAX_BACKOFF_S = 0.02, 1.0


@dataclass(eq=False)
class Pulling:
    """A pull under way: what `result` waits for; with a `batch`, `keys` are its different ones."""

    table: int
    keys: np.ndarray
    clock: int
    dim: int
    parts: dict[int, Order]
    wait: Callable[[Pulling], None]
    batch: Batch | None = None
    left: set[int] = field(default_factory=set)
    rows: np.ndarray | None = None
    held: np.ndarray | None = None
    error: GyralError | None = None

    def start(self, parts: dict[int, Order]) -> None:
        """Everything is still to come."""
        self.parts, self.left = parts, set(parts)
        self.rows = self.held = None
        if not parts or next(iter(parts.values())) is not None:
            self.rows = np.empty((len(self.keys), self.dim), np.float32)
            self.held = np.empty(len(self.keys), np.bool_)

    def take(self, shard: int, rows_PD: np.ndarray, held_P: np.ndarray) -> None:
        """A shard has answered."""
        order = self.parts[shard]
        if order is None or self.rows is None or self.held is None:
            self.rows, self.held = rows_PD, held_P
        else:
            scattered(rows_PD, order, self.rows)
            self.held[order] = held_P
        self.left.discard(shard)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows float32 [K, D] and which were held, once all shards have answered."""
        self.wait(self)
        if self.error is not None:
            raise self.error
        if self.rows is None or self.held is None:
            raise GyralError("a pull has no answer")
        if self.batch is not None:
            self.rows, self.held = np.take(self.rows, self.batch.inverse, axis=0), self.held[self.batch.inverse]
            self.batch = None
        return self.rows, self.held


@dataclass(eq=False)
class Pushing:
    """A push, kept until it is durable; its arrays must stay as they are."""

    table: int
    keys: np.ndarray
    grads: np.ndarray
    base: np.ndarray | None
    clock: int
    seq: int
    at: int
    factor: float
    parts: dict[int, Order]
    wait: Callable[[Pushing], None]
    left: set[int] = field(default_factory=set)
    error: GyralError | None = None
    scale: float = -1.0

    @property
    def size_bytes(self) -> int:
        """That it keeps in memory."""
        return int(self.keys.nbytes + self.grads.nbytes + (0 if self.base is None else self.base.nbytes))

    def result(self) -> None:
        """Return once all shards have applied it (under `bsp`: have it, for the end of its clock)."""
        self.wait(self)
        if self.error is not None:
            raise self.error


@dataclass(eq=False)
class Asking:
    """A question to one shard; `ask` goes along, `body` is the answer."""

    shard: int
    what: str
    value: int = 0
    ask: bytes = b""
    body: bytes | None = None


@dataclass(eq=False)
class Lane:
    """A shard, as a client sees it.

    Attributes
    ----------
    sent, expected : numbers of the next frame on this link, there and back.
    open : number of a frame → what waits for its answer.
    durable : the shard's last word on which of our pushes are on its disk.
    birth : of the shard that was there first.
    trouble : why it has no link, or why a pull waits.
    """

    shard: int
    name: str
    channel: Channel | None = None
    is_ready: bool = False
    sent: int = 0
    expected: int = 0
    open: dict[int, Pulling | Pushing | Asking] = field(default_factory=dict)
    durable: int = 0
    birth: str = ""
    keeps: bool = False
    seq: int = 0
    clock: int = 0
    trouble: str = ""
    losses: int = 0
    retry_at: float = 0.0
    backoff_s: float = BACKOFF_S

    def lose(self, why: str, now: float) -> None:
        """There is no link any more; try again soon."""
        if self.channel is not None:
            self.channel.close()
            self.losses += 1
        self.channel, self.is_ready, self.trouble = None, False, why
        self.open.clear()
        self.retry_at = now + self.backoff_s
        self.backoff_s = min(2 * self.backoff_s, MAX_BACKOFF_S)
