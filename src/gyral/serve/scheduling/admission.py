"""Who is let in at all: refused at once, and told when to come back, rather than after having waited in vain.

Three things refuse a request before it waits: as many wait as may (503), a deadline that not even an empty server keeps (504),
and, while more comes than can be computed, an estimate that its turn comes too late (503). The estimate counts those with an
earlier deadline only, some of whom will be given up, so it has to be beyond the deadline by half before it counts. Simulated
at 3x the capacity nine of ten who get no answer are told at once, for .000 of goodput (in bursts six of ten, for .005); at a
steady 1.5x nobody is: there the tight ones are given up, whom the queue finds within 20 ms. Below capacity it never refuses:
there, what it would refuse is often answered in time.

`retry-after` is when the backlog of now is gone, longer by as much as more comes than goes, spread by a quarter so that clients
do not come back together; whole seconds, since the header knows no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from gyral.http import Header, Refused
from gyral.serve.scheduling.batch import Waiting
from gyral.serve.scheduling.dispatch import Dispatcher

SLACK: Final = 1.5
LONGEST_S: Final = 60


class Refusal(NamedTuple):
    """Why a request does not wait: the answer's status, what stood against it, and when to come back; 0: it would be the same.

    Words are made only when they are asked for, because in overload most requests end here.
    """

    status: int
    what: str
    retry_s: int = 0
    waiting: int = 0
    left_s: float = 0.0
    least_s: float = 0.0

    @property
    def why(self) -> str:
        """The numbers that decided."""
        if self.status == 503:
            return f"{self.waiting:,} requests wait"
        if self.status == 504:
            return f"{1e3 * max(self.left_s, 0):.3g} ms are left, an answer takes {1e3 * self.least_s:.3g}"
        return f"`min_quality` is {self.least_s:g}"

    def raised(self) -> Refused:
        """The error that the server answers."""
        headers: tuple[Header, ...] = ((b"retry-after", b"%d" % self.retry_s),) if self.retry_s else ()
        hints = {400: "ask for less, or leave `min_quality` out", 504: "allow more time: `x-deadline-ms`"}
        return Refused(self.status, self.what, self.why, hints.get(self.status, f"ask again in {self.retry_s} s"), headers)


def retry_s(drain_s: float, load: float, draw: float = 0.5) -> int:
    """Whole seconds until it is worth asking again.

    Parameters
    ----------
    drain_s : until those who wait now are answered.
    load : what comes over what can be computed.
    draw : uniform in [0, 1), spreads the clients.
    """
    wait = drain_s * max(1.0, load) * (0.875 + 0.25 * draw)
    return max(1, min(LONGEST_S, math.ceil(wait))) if wait == wait else LONGEST_S


class Admission:
    """Lets requests into a dispatcher.

    Parameters
    ----------
    draw : uniform numbers in [0, 1).
    refused : counts those who were not let in, `full`, `hopeless` or `late`; its own by default.
    """

    def __init__(self, dispatcher: Dispatcher, draw: Callable[[], float], refused: dict[str, int] | None = None) -> None:
        self._dispatcher, self._draw = dispatcher, draw
        self.refused = {"full": 0, "hopeless": 0, "late": 0} if refused is None else refused

    def offer(self, one: Waiting, now: float) -> Refusal | None:
        """Let a request wait, or say why not."""
        to = self._dispatcher
        lane = to.lane(one.floor)
        if lane is None:
            return Refusal(400, "no variant is as good as that", least_s=one.floor)
        slack = one.deadline - now
        if slack < lane.least_s:
            self.refused["hopeless"] += 1
            lane.queue.count(now)
            return Refusal(504, "there is no answer in this time", left_s=slack, least_s=lane.least_s)
        if to.load > 1 and len(lane.queue) > to.max_batch and lane.wait_s(one.deadline, one.priority) > SLACK * slack:
            self.refused["late"] += 1
            lane.queue.count(now)
            return self._busy("the deadline would pass first")
        if not lane.push(one, now):
            self.refused["full"] += 1
            return self._busy("too many requests wait")
        return None

    def _busy(self, what: str) -> Refusal:
        to = self._dispatcher
        return Refusal(503, what, retry_s(to.drain_s(), to.load, self._draw()), len(to))
