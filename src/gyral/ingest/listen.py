"""Collect and drain in one process: what a device was told is stored is in the lake a moment later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from gyral.config import Config
from gyral.errors import GyralError
from gyral.ingest.collector import Collector
from gyral.ingest.drain import Drain, Drained
from gyral.lake.table import Lake
from gyral.log.opening import open_log
from gyral.run import Run

AFTER_ERROR_S = 2.0
Drains = Literal["always", "once used", "never"]


@contextmanager
def collecting(root: Path, config: Config, run: Run, drains: Drains = "always") -> Iterator[Collector]:
    """A collector and, in a thread, its drain, for as long as the block runs; what came in is committed when it ends.

    Parameters
    ----------
    drains : whether this process drains: always, from the first event it took on, or never because another process does.
    """
    lake = Lake.of(root, config)
    with open_log(lake.log_folder, config) as log:
        drain = Drain.of(lake, log, config)
        if drains == "always":
            drain.open()  # a server that may never be sent an event does not read the ids of the lake to start
        collector = Collector(lake, log, config.collect, drain.known, run.note)

        def is_due() -> bool:
            return drains == "always" or (drains == "once used" and collector.counts["accepted"] > 0)

        with Following(drain, collector, config.collect.drain_every_s, run, is_due) as following:
            try:
                yield collector
            finally:
                collector.close()
        run.writes("lake", "events", following.done.version)
        run.summarize(**collector.totals(), committed=following.done.accepted, refused=_refusals(collector))


class Following:
    """A drain that follows the log in a thread, and finishes when its block ends."""

    def __init__(
        self, drain: Drain, collector: Collector, every_s: float, run: Run, drains: Callable[[], bool] = lambda: True
    ) -> None:
        self.done = Drained()
        self._drain, self._collector, self._every_s, self._run, self._drains = drain, collector, every_s, run, drains
        self._meter = run.meter("events")
        self._stopping = threading.Event()
        self._told = ""
        self._thread = threading.Thread(target=self._work, name="drain", daemon=True)

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._drains():
            self._step(eager=True)

    def _work(self) -> None:
        wait_s = self._every_s
        while not self._stopping.wait(wait_s):
            began = time.monotonic()
            try:
                if self._drains() and self._drain.is_behind():
                    self._step(eager=False)
                wait_s = max(0.0, self._every_s - (time.monotonic() - began))
                self._told = ""
            except Exception as error:  # the log keeps what the lake refused
                told = error.what if isinstance(error, GyralError) else f"{type(error).__name__}: {error}"
                if told != self._told:
                    self._told = told
                    self._run.note(f"drain    waits: {told}")
                wait_s = AFTER_ERROR_S

    def _step(self, eager: bool) -> None:
        done = self._drain.run(eager=eager)
        self.done.accepted += done.accepted
        self.done.duplicate += done.duplicate
        self.done.version = done.version
        self._collector.settled(self._drain.offsets)
        self._meter.update(self.done.accepted)


def listen(root: Path, config: Config, run: Run, serve: Callable[[Collector], bool]) -> dict[str, Any]:
    """Collect until the server ends; the summary that the run keeps.

    Parameters
    ----------
    serve : runs an application and says whether it was interrupted.
    """
    with collecting(root, config, run) as collector:
        was_interrupted = serve(collector)
    told = collector.totals()
    counts = f"{told['accepted']:,} events accepted, {told['duplicate']:,} already there, {told['quarantined']:,} quarantined"
    run.note(f"ingest   {counts}")
    return {"was_interrupted": was_interrupted, **told}


def _refusals(collector: Collector) -> dict[str, int]:
    return {name.partition(":")[2]: count for name, count in collector.counts.items() if name.startswith("refused:")}
