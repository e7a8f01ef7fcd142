"""CPU seconds of a live loop, process by process: who comes, who takes in and answers, who learns, who holds the tables."""

from __future__ import annotations

import time

from gyral.bench.cpu import Processes

PARTS = ("population", "server", "learner", "shards")


class Spent:
    """What each part has taken so far, whoever is killed and started again.

    A process that dies is counted up to the last look before; one that says itself what it took is believed where that is more.
    """

    def __init__(self) -> None:
        self._past = dict.fromkeys(PARTS, 0.0)
        self._now = dict.fromkeys(PARTS, 0.0)
        self._pids: dict[str, int] = {}

    def look(self, server: int, learner: int) -> None:
        """Take what the processes have taken by now; 0: there is none just now. Shards that the learner started are its own."""
        found = Processes()
        self._took("server", server, found.tree(server))
        alone, tree = found.alone(learner), found.tree(learner)
        self._took("learner", learner, alone)
        self._took("shards", learner, tree - alone if tree is not None and alone is not None else None)

    def said(self, part: str, cpu_s: float) -> None:
        """What the process of a part says of itself."""
        self._now[part] = max(self._now[part], cpu_s)

    def told(self) -> dict[str, float]:
        """Part → CPU seconds; `population` is this process: who comes, and what is read and written for it."""
        self._now["population"] = time.process_time()
        return {part: round(self._past[part] + self._now[part], 2) for part in PARTS}

    def _took(self, part: str, pid: int, cpu_s: float | None) -> None:
        if cpu_s is None:
            return
        if self._pids.setdefault(part, pid) != pid:
            self._past[part] += self._now[part]
            self._now[part] = 0.0
            self._pids[part] = pid
        self._now[part] = max(self._now[part], cpu_s)
