"""A drain that goes on: in a thread beside a collector, or alone until somebody says stop.

A broker that is away is waited for, because it has what it acknowledged. What no waiting mends (batches that are gone, a log
older than the lake, a lake that cannot be written) ends `follow`, where it is the only work; beside a collector it is told and
tried again, because what comes in is still stored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from gyral.config import Config
from gyral.errors import ConflictError, GyralError
from gyral.ingest.drain import Drain, Drained
from gyral.lake.table import Lake
from gyral.log.opening import open_log
from gyral.log.writer import Gone, LogError
from gyral.run import Run

AFTER_ERROR_S = 2.0
LOOK_EVERY_S = 0.1
SAME_S = 0.3
ABANDON_S = 3.0
"""How long a stop waits for a thread that commits nothing: it may be waiting for a broker."""


class Following:
    """A drain that follows the log in a thread, and finishes when its block ends.

    Parameters
    ----------
    settled : told after each round how far the lake is.
    is_due : whether there is anything to do yet.
    ends_with : told of an error that waiting cannot mend, after which the thread has ended; None: those are waited for as well.

    Attributes
    ----------
    done : what was committed so far.
    cpu_s : what its thread has taken for it.
    """

    def __init__(
        self,
        drain: Drain,
        every_s: float,
        run: Run,
        *,
        settled: Callable[[Mapping[str, int]], None] = lambda _: None,
        is_due: Callable[[], bool] = lambda: True,
        ends_with: Callable[[Exception], None] | None = None,
    ) -> None:
        self.done, self.cpu_s = Drained(), 0.0
        self._drain, self._every_s, self._run = drain, every_s, run
        self._settled, self._is_due, self._ends_with = settled, is_due, ends_with
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
        if self._is_due():
            self._step(eager=True)

    def stop(self) -> bool:
        """Finish the commit that is being made and no more; False where the thread waits for a broker and is left to it."""
        self._stopping.set()
        self._thread.join(ABANDON_S)
        while self._thread.is_alive() and self._drain.is_committing:
            self._thread.join(0.1)
        return not self._thread.is_alive()

    def start(self) -> None:
        """Begin; a block does both."""
        self._thread.start()

    def _work(self) -> None:
        wait_s = 0.0 if self._ends_with else self._every_s
        while not self._stopping.wait(wait_s):
            began = time.monotonic()
            try:
                if self._is_due() and self._drain.is_behind() and not (self._ends_with and self._stopping.is_set()):
                    self._step(eager=False)
                wait_s = max(0.0, self._every_s - (time.monotonic() - began))
                self.cpu_s = time.thread_time()
                if self._told:
                    self._told = ""
                    self._run.note("drain    goes on")
            except Exception as error:  # the log keeps what the lake refused
                if self._ends_with is not None and not _may_pass(error):
                    self._ends_with(error)
                    return
                told = error.what if isinstance(error, GyralError) else f"{type(error).__name__}: {error}"
                if told != self._told:
                    self._told = told
                    self._run.note(f"drain    waits: {told}")
                wait_s = AFTER_ERROR_S

    def _step(self, eager: bool) -> None:
        before = self.done

        def goes_on(done: Drained) -> bool:
            self.done = before + done
            self._meter.update(self.done.accepted)
            return self._ends_with is None or not self._stopping.is_set()

        self.done = before + self._drain.run(eager=eager, goes_on=goes_on)
        self._settled(self._drain.offsets)
        self._meter.update(self.done.accepted)


def follow(root: Path, config: Config, run: Run) -> dict[str, Any]:
    """Commit what the log gets until SIGINT or SIGTERM, which end it after the commit that is being made.

    Returns
    -------
    The summary that the run keeps, and `was_interrupted`: whether it was SIGINT.

    Raises
    ------
    LakeError, LogError : batches are gone, the log is older than the lake, or the lake refused; nothing was skipped.
    """
    lake = Lake.of(root, config)
    failed: list[Exception] = []
    with _signals() as received, contextlib.ExitStack() as stack:
        log = stack.enter_context(open_log(lake.log_folder, config))
        lake.check(log)
        drain = Drain.of(lake, log, config)
        drain.open()
        following = Following(drain, config.collect.drain_every_s, run, ends_with=failed.append)
        run.note(f"ingest   follows {config.ingest.log or lake.log_folder} (Ctrl-C stops)")
        following.start()
        while not received and not failed:  # a signal may reach another thread, and then nothing wakes this one from a wait
            time.sleep(LOOK_EVERY_S)
        has_ended = False
        try:
            has_ended = following.stop()
        finally:
            if not has_ended:
                stack.pop_all()  # the log is in use, so it is not closed; the process ends anyway
    done = following.done
    run.writes("lake", "events", done.version)
    told = {"accepted": done.accepted, "kinds": done.kinds, "duplicate": done.duplicate, "quarantined": done.quarantined}
    run.summarize(**told)
    run.note(
        f"ingest   {done.accepted:,} events accepted, {done.duplicate:,} already there, "
        f"{sum(done.quarantined.values()):,} quarantined"
    )
    if failed:
        raise failed[0]
    return {**told, "was_interrupted": signal.SIGINT in received}


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM instead of dying of it; the second one is not held up.

    One that comes at once after the first is the same one: `timeout` tells its process and then the group that this is in.
    """
    received: list[int] = []
    before: dict[int, Any] = {}
    first = 0.0

    def stop(which: int, _: FrameType | None) -> None:
        nonlocal first
        if not received:
            received.append(which)
            first = time.monotonic()
        elif time.monotonic() - first > SAME_S:
            restore()
            os.kill(os.getpid(), which)

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    for which in (signal.SIGINT, signal.SIGTERM):
        before[which] = signal.signal(which, stop)
    try:
        yield received
    finally:
        restore()


def _may_pass(error: Exception) -> bool:
    return isinstance(error, LogError | ConflictError) and not isinstance(error, Gone)
