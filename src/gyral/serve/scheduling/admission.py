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
from gyral.serve.scheduling.dispatch import Dispatcher

SLACK: Final = 1.5
LONGEST_S: Final = 60


class Refusal(NamedTuple):
    """Why a request does not wait: the answer's status, and when to come back; 0: never, it would be the same."""

    status: int
    what: str
    why: str
    retry_s: int

    def raised(self) -> Refused:
        """The error that the server answers."""
        headers: tuple[Header, ...] = ((b"retry-after", b"%d" % self.retry_s),) if self.retry_s else ()
        hint = f"ask again in {self.retry_s} s" if self.retry_s else "allow more time: `x-deadline-ms`"
        return Refused(self.status, self.what, self.why, hint, headers)


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
    """

    def __init__(self, dispatcher: Dispatcher, draw: Callable[[], float]) -> None:
        self._dispatcher, self._draw = dispatcher, draw
        self.refused = {"full": 0, "hopeless": 0, "late": 0}

    def offer(
        self,
        id: int,
        deadline: float,
        now: float,
        key: str = "",
        *,
        priority: int = 1,
        weight: float = 1.0,
        size: float = 1.0,
        floor: float = -math.inf,
    ) -> Refusal | None:
        """Let a request wait, or say why not."""
        to = self._dispatcher
        lane = to.lane(floor)
        if lane is None:
            return Refusal(400, "no variant is as good as that", f"`min_quality` is {floor:g}", 0)
        slack = deadline - now
        if slack < lane.least_s:
            self.refused["hopeless"] += 1
            lane.queue.count(now)
            why = f"{1e3 * max(slack, 0):.3g} ms are left, an answer takes {1e3 * lane.least_s:.3g}"
            return Refusal(504, "there is no answer in this time", why, 0)
        if to.load > 1 and len(lane.queue) > to.max_batch and lane.wait_s(deadline, priority) > SLACK * slack:
            self.refused["late"] += 1
            lane.queue.count(now)
            return self._busy("the deadline would pass first", f"{len(to):,} requests wait")
        if not lane.push(id, deadline, now, key, priority, weight, size):
            self.refused["full"] += 1
            return self._busy("too many requests wait", f"{len(to):,} do")
        return None

    def _busy(self, what: str, why: str) -> Refusal:
        to = self._dispatcher
        return Refusal(503, what, why, retry_s(to.drain_s(), to.load, self._draw()))
