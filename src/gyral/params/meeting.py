"""A meeting of workers at the end of a clock under `bsp`: all have pushed, nothing is applied yet, and each hears of all.

What must be known of the whole batch before its one step is made is known nowhere else: how many targets there were, what the
loss was, and how long the sum of all gradients is (for a limit on its norm). Each worker says its sums, each shard tells all
of them and the squares of its part of the gradient; with both, every worker comes to the same `scale`, which the tick carries.
It is one question and one answer a step, as an all-reduce of a few numbers would be, and no further group of processes.

Squares are told by bucket and added up exactly (`math.fsum`), so the norm has the same bits for any number of shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from gyral.params import wire
from gyral.params.wire import Head


class Asker(Protocol):
    """A worker's session."""

    worker: int
    is_closed: bool

    def say(self, make: Callable[[int], Head]) -> None: ...


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
        self._told = -1, b""
        self._asking: list[tuple[Asker, wire.Ask]] = []

    def say(self, session: Asker, head: wire.Ask) -> None:
        """A worker is there."""
        self._said.setdefault(head.value, {})[session.worker] = head.body
        self._asking.append((session, head))

    def answer(self, live: Mapping[int, int], squares: Callable[[int], Sequence[np.ndarray]]) -> None:
        """Tell those who wait that all are there, if they are.

        Parameters
        ----------
        live : worker → clocks that it has finished.
        squares : those of a clock, by table.
        """
        asking, self._asking = self._asking, []
        for session, head in asking:
            if not session.is_closed and self.is_complete(head.value, live):
                body = self.told(head.value, squares)
                session.say(lambda number, to=head.number, body=body: wire.Told(number, to, body))  # type: ignore[misc]
            elif not session.is_closed:
                self._asking.append((session, head))

    def decide(self, clock: int, scale: float, decided: bytes = b"") -> None:
        """Somebody has gone on with this."""
        self.scales[clock] = scale
        if decided:
            self.decided[clock] = decided

    def is_complete(self, clock: int, live: Mapping[int, int]) -> bool:
        """Whether all live workers are there, or have gone on."""
        said = self._said.get(clock, {})
        return all(worker in said or ticked > clock for worker, ticked in live.items())

    def told(self, clock: int, squares: Callable[[int], Sequence[np.ndarray]]) -> bytes:
        """The answer; it is made once."""
        if self._told[0] != clock:
            both = np.concatenate([np.zeros(0), *(each[each != 0] for each in squares(clock))])
            answer = Told(self._said.get(clock, {}), self.decided.get(clock, b""), both.astype("<f8").tobytes())
            self._told = clock, msgspec.msgpack.encode(answer)
        return self._told[1]

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
