"""The process that learns: events of the log in, versions of the tables out. `python -m gyral.live.learner SETTINGS`.

It tells how it is once a second, one JSON line on stdout, and is told by lines on stdin: `finish` (learn what is in the log and
end), or their end, at which it stops where it is. Whatever it is stopped by, started again it goes on.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gyral.config import Config
from gyral.faults import fail_point
from gyral.files import write_atomic
from gyral.ingest.tombstones import Tombstones
from gyral.lake.table import Lake
from gyral.live.behaviour import Behaviour
from gyral.log.opening import open_log
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.live import places, tables
from gyral.model.live.following import Follower
from gyral.model.live.known import Known
from gyral.params import client
from gyral.params.shard import Settings
from gyral.train.gate import Gate, Verdict
from gyral.train.online import Online
from gyral.train.online_tables import Server
from gyral.train.online_visits import Limits, Visits

TOLD_EVERY_S = 1.0
WARM_S = 60.0
FROZEN = "frozen"
"""In the folder of a live model: the name of its frozen copy."""


class Job(msgspec.Struct):
    """What a learner is started with: where in the log it begins; when `freeze_at` events are learned, a copy is
    put aside as a model `frozen` (0: never)."""

    root: str
    name: str
    config: Config
    start: dict[str, int] = {}
    freeze_at: int = 0
    frozen: str = ""
    run: int = 0


class Learner:
    """One live model."""

    def __init__(self, job: Job) -> None:
        config, params = job.config, job.config.params
        self.job, self.root = job, Path(job.root)
        self.folder = places.folder_of(self.root, job.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        specs = tables.specs(params.dim, params.rate, config.train.seed)
        start = partial(client.open, params.at, settings=Settings(sync="async", workers=1, cut_s=params.cut_s))
        warm(job, start)
        self.server = Server(start, list(specs.values()), self.folder)
        limits = Limits(params.admit_count, params.max_objects, config.curate.robot_events_per_hour)
        self.model = Visits(self.server, limits, config.train.seed, params.sample)
        self.gate = Gate(params.gate_loss, params.gate_patience)
        lake = Lake.of(self.root, config)
        self.log = open_log(lake.log_folder, config)
        self._erased = Tombstones(lake.snapshot("erasures") if lake.exists("erasures") else None)
        self.online = self._online()
        self.went_back = 0
        self._has_to_go_back = False
        self.verdict = Verdict(True, float("nan"), float("nan"), False)
        marker = self.folder / FROZEN
        self._frozen = marker.read_text() if marker.exists() else ""
        self._freeze_at = 0
        """The step from which on a copy is due, once it is published: else the copy would have learned less than was asked."""
        self._begun, self._told_at, self._last_step = time.monotonic(), 0.0, time.monotonic()

    def _online(self) -> Online:
        self.model.quiet = places.quiet_steps(self.folder)
        online = Online(
            self.log,
            self.folder,
            Behaviour(self.job.config, erased=self._erased),
            self.model,
            self.job.config.params.step_s,
            self.job.start,
        )
        online.recover()
        self.model.count()
        return online

    def turn(self) -> bool:
        """One step, and what is due; whether anything came."""
        step = self.online.step(self.publish)
        if step is not None:
            fail_point("live.learned")
            self._last_step = time.monotonic()
            self.gate.saw(self.model.last_visits)
            if self.job.freeze_at and not self._frozen and self.model.learned >= self.job.freeze_at:
                self._freeze_at = self._freeze_at or step.seq
                if self.server.published.step >= self._freeze_at:
                    self._freeze()
        if self._has_to_go_back:
            self._go_back()
        if time.monotonic() - self._told_at >= TOLD_EVERY_S:
            self.tell()
        return step is not None

    def publish(self) -> None:
        """Publish what is on the disk, if the gate lets it; go back when it did not too often."""
        newest = self.server.newest()
        if newest is None:
            return
        self.verdict = self.gate.check(self.model, self.online.hour)
        if self.verdict.passes:
            newest.hour = self.online.hour
            with contextlib.suppress(OSError):  # the disk is full: the next look tries again, and nobody has to start anew
                self.server.publish(newest)
                fail_point("live.published")
            self.online.cut(self.server.published.step)
            return
        self.server.published.refused += 1
        self._has_to_go_back = self.verdict.goes_back

    def _go_back(self) -> None:
        last = self.online.journal.last
        places.add_quiet(self.folder, self.server.published.step + 1, last)
        fail_point("live.quiet")
        self.online.close()
        self.server.go_back()
        self.model = Visits(self.server, self.model.limits, self.job.config.train.seed, self.job.config.params.sample)
        self.online = self._online()
        self.gate.went_back()
        self.went_back += 1
        self._has_to_go_back = False

    def _freeze(self) -> None:
        """A copy of what is published as a model of its own, which is not learned any more.

        Where shards fold their logs just now, the next turn tries again.
        """
        known = Known(self.job.config.params.dim, self.job.config.train.seed)
        if not Follower(self.folder, known, lambda *_: None).poll():
            return
        settings = {
            "kind": "frozen", "dim": known.dim, "names": known.names, "titles": known.titles, "hour": known.hour,
        }  # fmt: skip
        card = Card(
            family="live", dataset=self.job.name, run=self.job.run, metric="recall_at_10", num_subjects=len(known.pasts),
            num_objects=len(known.names), num_interactions=int(known.view.count_V.sum(dtype=np.float64)),
        )  # fmt: skip
        made = cards.publish(self.root, self.job.frozen, Weights(known.arrays(), settings), None, card)
        write_atomic(self.folder / FROZEN, made.model)
        self._frozen = made.model

    def finish(self) -> None:
        """Learn what is in the log, and wait until it is published or refused."""
        while self.turn():
            pass
        until = time.monotonic() + 5.0
        while self.server.published.step < self.online.journal.last and time.monotonic() < until:
            refused = self.server.published.refused
            time.sleep(0.02)
            self.publish()
            if self.server.published.refused > refused:
                break

    def tell(self) -> None:
        """One line of how it is."""
        self._told_at = time.monotonic()
        stats, published = self.server.stats(), self.server.published
        line: dict[str, Any] = {
            "seen": self.online.seen,
            "learned": self.model.learned,
            "steps": self.online.journal.last,
            "published": published.version,
            "published_step": published.step,
            "refused": published.refused,
            "went_back": self.went_back,
            "gate": [_plain(self.verdict.candidate), _plain(self.verdict.published)],
            "loss": _plain(self.model.loss),
            "rows": self.model.rows,
            "objects": len(self.model.names),
            "subjects": sum(shard["rows"][tables.PAST] for shard in stats["shards"]),
            "staleness": stats["staleness"]["pushes"],
            "silent_s": round(time.monotonic() - self._last_step, 3),
            "dropped": dict(self.online.dropped + self.model.dropped),
            "frozen": self._frozen,
            "trouble": self.online.trouble,
            "up_s": round(time.monotonic() - self._begun, 2),
            "cpu_s": round(time.process_time(), 2),
        }
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Let go of everything."""
        self.online.close()
        self.server.close()
        self.log.close()


def warm(job: Job, start: Callable[..., client.Client]) -> None:
    """Take one step on other tables and follow it, so that every kernel is compiled, or read from numba's cache, before events
    wait for it; 30 s the first time on a machine, .5 s later."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specs = tables.specs(job.config.params.dim)
        server = Server(start, list(specs.values()), folder)
        try:
            for seq in (1, 2):
                keys = np.arange(3)
                server.push(seq, {each.name: (keys, np.zeros((3, each.dim), np.float32)) for each in specs.values()}, 1)
                for each in specs:
                    server.pull(each, keys)
                until = time.monotonic() + WARM_S
                while (newest := server.newest()) is None and time.monotonic() < until:
                    time.sleep(0.01)
                if newest is not None:
                    server.publish(newest)
                    Follower(folder, Known(job.config.params.dim), lambda *_: None).poll()
        finally:
            server.close()


def _plain(value: float) -> float | None:
    return round(value, 4) if value == value else None


def main() -> None:
    """Run until told otherwise."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        pending = b""
        while part := os.read(0, 4_096):
            pending += part
            *lines, pending = pending.split(b"\n")
            for line in lines:
                told.put(line.decode())
        told.put("stop")

    threading.Thread(target=listen, daemon=True).start()
    learner = Learner(job)
    learner.tell()
    try:
        while True:
            learner.turn()
            if not told.empty():
                word = told.get()
                if word == "finish":
                    learner.finish()
                    learner.tell()
                break
    finally:
        learner.close()


if __name__ == "__main__":
    main()
