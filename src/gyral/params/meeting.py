"""A meeting of workers at the end of a clock under `bsp`: all have pushed, nothing is applied yet, and each hears of all.

What must be known of the whole batch before its one step is made is known nowhere else: how many targets there were, what the
loss was, and how long the sum of all gradients is (for a limit on its norm). Each worker says its sums, each shard tells all
of them and the squares of its part of the gradient; with both, every worker comes to the same `scale`, which the tick carries. It
is one question and one answer a step, as an all-reduce of a few numbers would be, and no further group of processes.

Squares are told by bucket and added up exactly (`math.fsum`), so the norm has the same bits for any number of shards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np


class Told(msgspec.Struct, array_like=True):
    """What a shard answers: each worker's words, or what they decided; squares by bucket that are not 0."""

    said: dict[int, bytes]
    decided: bytes
    squares: bytes


class Met(NamedTuple):
    """What a worker hears.

    Attributes
    ----------
    said : of each worker, in their order.
    decided : by those who have gone on already; empty: nobody has.
    norm : of the sum of all gradients of the clock.
    """

    said: list[bytes]
    decided: bytes
    norm: float


class Meetings:
    """Of one shard, by clock."""

    def __init__(self) -> None:
        self._said: dict[int, dict[int, bytes]] = {}
        self.decided: dict[int, bytes] = {}
        self.scales: dict[int, float] = {}

    def say(self, clock: int, worker: int, body: bytes) -> None:
        """A worker is there."""
        self._said.setdefault(clock, {})[worker] = body

    def decide(self, clock: int, scale: float, decided: bytes = b"") -> None:
        """Somebody has gone on with this."""
        self.scales[clock] = scale
        if decided:
            self.decided[clock] = decided

    def is_complete(self, clock: int, live: Mapping[int, int]) -> bool:
        """Whether all live workers (→ clocks that they have finished) are there, or have gone on."""
        said = self._said.get(clock, {})
        return all(worker in said or ticked > clock for worker, ticked in live.items())

    def told(self, clock: int, squares: Sequence[np.ndarray]) -> bytes:
        """The answer; `squares` by table."""
        both = np.concatenate([each[each != 0] for each in squares]) if squares else np.zeros(0)
        answer = Told(self._said.get(clock, {}), self.decided.get(clock, b""), both.astype("<f8").tobytes())
        return msgspec.msgpack.encode(answer)

    def end(self, clock: int) -> float:
        """The clock is over; the scale of its gradients."""
        self._said.pop(clock, None)
        self.decided.pop(clock, None)
        return self.scales.pop(clock, 1.0)


def met(bodies: Sequence[bytes]) -> Met:
    """Answers of all shards as one."""
    answers = [msgspec.msgpack.decode(body, type=Told) for body in bodies]
    fullest = max((answer.said for answer in answers), key=len)
    decided = next((answer.decided for answer in answers if answer.decided), b"")
    squares = math.fsum(value for answer in answers for value in np.frombuffer(answer.squares, "<f8").tolist())
    return Met([fullest[worker] for worker in sorted(fullest)], decided, math.sqrt(squares))
