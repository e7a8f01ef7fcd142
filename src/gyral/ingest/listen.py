"""Collect and drain in one process: what a device was told is stored is in the lake a moment later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from gyral.config import Config
from gyral.ingest.collector import Collector
from gyral.ingest.drain import Drain
from gyral.ingest.following import Following
from gyral.lake.table import Lake
from gyral.log.opening import open_log
from gyral.run import Run

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
        collector = Collector(lake, log, config.collect, drain.known, run.note, config.ingest.dedup_days)

        def is_due() -> bool:
            return drains == "always" or (drains == "once used" and collector.counts["accepted"] > 0)

        every_s = config.collect.drain_every_s
        with Following(drain, every_s, run, settled=collector.settled, is_due=is_due) as following:
            try:
                yield collector
            finally:
                collector.close()
        run.writes("lake", "events", following.done.version)
        cpu_s = round(collector.cpu_s + following.cpu_s, 2)
        run.summarize(
            **collector.totals(), committed=following.done.accepted, refused=_refusals(collector), taking_in_cpu_s=cpu_s
        )


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
