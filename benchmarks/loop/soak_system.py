"""The system that a soak puts under load, of the real commands, and the init system that they are run by.

    disk/live       gyral serve soak-live --workers 2 (its collector writes the log), gyral.live.learner over two shards
    disk/drained    gyral ingest --listen: collector and drain in one process
    broker          where the logs of both are topics: Tansu over an object store

Each of the three services stands on a machine whose clock is its own: server and workers, collector, learner and shards.
Two projects, because a live learner reads its log itself: the log of `live` is committed when the learner has
ended (as `gyral loop --live` does), that of `drained` while it grows. Who starts whom again: the server its workers, the
learner its shards, `gyral.live.watched` the learner (all of them gyral's); nobody of gyral's starts a server or a collector
again, so this does, on the port they had, as systemd would.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import soak_clock
from soak_broker import Broker
from soak_clock import Clock

from gyral.config import Config, load
from gyral.errors import GyralError
from gyral.live.learner import Job
from gyral.live.watched import Watched
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.live import places
from gyral.params.deltas import compact

NAME = "soak-live"
FREEZE_AT = 300
WORKERS = 2
NUM_SHARDS = 2
READY_S = 180.0
STARTS = 3
NUDGED_S = 2.0
"""For a drain that follows to see it."""
MACHINES = ("gateway", "collector", "learner")
PROJECTS = ("live", "drained")
ONE_BY_ONE = 'kafka.options={"batch.num.messages"="1"}'
"""Tansu tells the end of a partition without all but the first message of the last batch."""
SMALL = (
    'params.at="proc://2"', "curate.robot_events_per_hour=1000000", "collect.min_free_bytes=1000000", "params.keep_s=5",
)  # fmt: skip
"""Of a disk of some hundred megabytes, and traffic that is played many times over."""


class Service:
    """A command that says on stdout where it answers, and is started again when it ends."""

    def __init__(self, name: str, words: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.port, self.starts = name, 0, 0
        self.process: subprocess.Popen[bytes] | None = None
        self._words, self._log, self._environment = words, log, dict(environment)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None and self.process.poll() is None else 0

    def start(self) -> None:
        """Start it and wait until it answers; again where it ended before that, as whoever starts it would.

        Raises
        ------
        SystemExit : it does not.
        """
        for tries in range(STARTS, 0, -1):
            try:
                return self._start()
            except SystemExit:
                self.kill()
                if tries == 1:
                    raise

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "gyral", *self._words, "--json", "--port", str(self.port)]
        if self.name == "collector":
            command = [*command[:-2], "--listen", f"127.0.0.1:{self.port}"]
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=self._environment,
            )
        self.starts += 1
        self.port = int(_first_line(self.process.stdout, self._log)["url"].rpartition(":")[2])

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(60)
        self._close()
        return code

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):  # type: ignore[union-attr]
            if pipe is not None:
                pipe.close()


def _first_line(output: IO[bytes] | None, log: Path) -> dict[str, Any]:
    assert output is not None
    line, until = b"", time.monotonic() + READY_S
    while not line.endswith(b"\n") and (left := until - time.monotonic()) > 0:
        if select.select([output], [], [], left)[0]:
            part = os.read(output.fileno(), 1 << 16)
            if not part:
                break
            line += part
    try:
        found: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        raise SystemExit(f"a service did not start: {log.read_text('utf-8', 'replace')[-2_000:]}") from None
    return found


class System:
    """All of it.

    Parameters
    ----------
    folder : a project folder; what is under test is below `disk`, a small file system of its own where one can be mounted.
    with_kafka : whether the logs are topics.
    """

    def __init__(self, folder: Path, disk_bytes: int, with_kafka: bool, note: Any) -> None:
        self.folder, self.disk = folder, folder / "disk"
        self.disk.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={disk_bytes}", "tmpfs", str(self.disk)]
        self.is_mounted = (
            not os.geteuid() and bool(shutil.which("mount")) and not subprocess.run(mount, capture_output=True).returncode
        )
        self.live, self.drained, self.logs = self.disk / "live", self.disk / "drained", folder / "logs"
        for each in (self.live, self.drained, self.logs):
            each.mkdir(exist_ok=True)
        library = soak_clock.built(self.logs)
        self.clocks = {name: Clock(self.logs / f"clock-{name}", library) for name in MACHINES if library is not None}
        """Machine → its clock; empty where there is no C compiler."""
        self.broker = Broker(folder / "broker") if with_kafka else None
        logs = {name: [f'ingest.log="{self.broker.topic(name)}"', ONE_BY_ONE] if self.broker else [] for name in PROJECTS}
        self._sets = {name: [word for each in (*SMALL, *log) for word in ("--set", each)] for name, log in logs.items()}
        self.config = load(self.live, [*SMALL, *logs["live"]])
        self.gateway = Service(
            "gateway",
            ["serve", NAME, "--root", str(self.live), "--workers", str(WORKERS), "--child-of", "1", *self._sets["live"]],
            self.logs / "gateway.log", self._environment("gateway"),
        )  # fmt: skip
        self.collector = Service(
            "collector", ["ingest", "--root", str(self.drained), *self._sets["drained"]], self.logs / "collector.log",
            self._environment("collector"),
        )  # fmt: skip
        self.place = places.folder_of(self.live, "soak")
        self.marked: dict[int, str] = {}
        """Version of the model → what its objects begin with."""
        self._publishing = threading.Lock()
        self._publish_live()
        job = Job(str(self.live), "soak", self.config, {}, FREEZE_AT, "soak-frozen", 1)
        self.learner = Watched(job, self.logs, note)
        self.services = {"gateway": self.gateway, "collector": self.collector}

    @staticmethod
    def settings(folder: Path) -> Config:
        """What all of it is set to."""
        return load(folder, list(SMALL))

    def start(self) -> None:
        """Start everything."""
        self.collector.start()
        os.environ.update(self._environment("learner"))  # the learner is given this process's
        self.learner.__enter__()
        self.gateway.start()

    def pids(self, role: str) -> list[int]:
        """Processes of a role, oldest first."""
        if role in self.services:
            return [pid] if (pid := self.services[role].pid) else []
        if role == "broker":
            return [pid] if self.broker is not None and (pid := self.broker.pid) else []
        if role == "learner":
            return [pid] if (pid := self.learner.pid) else []
        parent, word = (
            (self.gateway.pid, "gyral.serve.worker") if role == "worker" else (self.learner.pid, "gyral.params.serve")
        )
        found = sorted(pid for pid, command in descendants(parent).items() if word in command)
        return found[:NUM_SHARDS] if role == "shard" else found  # a spare is the youngest

    def roll_out(self) -> int:
        """Publish the frozen copy, its objects marked with the version, as the newest version of the model."""
        weights = cards.read_weights(cards.find(self.live, "soak-frozen"))
        with self._publishing:
            number = 1 + max(int(path.name.rpartition("@")[2]) for path in (self.live / "models").glob(f"{NAME}@*"))
            mark = f"v{number}:"
            settings = {**weights.settings, "names": [mark + each for each in weights.settings["names"]]}
            made = cards.publish(self.live, NAME, Weights(weights.arrays, settings), None, _card()).model
            assert made == f"{NAME}@{number}"
            self.marked[number] = mark
        return number

    def roll_back(self) -> int:
        """Publish what learns as the newest version: a server never goes to an older one by itself."""
        with self._publishing:
            return self._publish_live()

    def fold(self) -> None:
        """Keep the shards' logs short, as `gyral loop --live` does."""
        published = places.read_published(self.place)
        for shard, last in published.cuts.items():
            with contextlib.suppress(GyralError):  # the disk is full: the log grows until there is room
                compact(self.place / places.SHARDS / shard, self.config.params.keep_s, last=last)

    def stop(self) -> dict[str, Any]:
        """End it all as an operator would; what the learner said last, and how the others ended."""
        self._nudge()
        told = self.learner.finish()
        left = [pid for role in ("worker", "shard") for pid in self.pids(role)]
        codes = {name: each.stop() for name, each in self.services.items()}
        self._nudge()
        self.learner.__exit__(None, None, None)
        until = time.monotonic() + 10
        while (alive := [pid for pid in left if _is_running(pid)]) and time.monotonic() < until:
            time.sleep(0.1)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "gyral", "ingest", "--root", str(self.live), "--json", *self._sets["live"]],
            capture_output=True, text=True, env=soak_clock.true_environment(),
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"what the log holds was not committed: {done.stderr[-2_000:]}")
        return {"learner": told, "codes": codes, "left": alive}

    def close(self) -> None:
        """Kill what still runs, and let the disk go."""
        for each in self.services.values():
            if each.pid:
                for pid in [*descendants(each.pid), each.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                each.kill()
        self.learner.__exit__(None, None, None)
        if self.broker is not None:
            self.broker.close()
        for clock in self.clocks.values():
            clock.close()
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)

    def _nudge(self) -> None:
        for name in PROJECTS if self.broker is not None else ():
            self.broker.nudge(name)  # type: ignore[union-attr]
            time.sleep(NUDGED_S)

    def _environment(self, machine: str) -> dict[str, str]:
        clock = self.clocks[machine].environment if machine in self.clocks else {}
        return {**soak_clock.true_environment(), "OMP_NUM_THREADS": "1", "GYRAL_NO_PROGRESS": "1", **clock}

    def _publish_live(self) -> int:
        settings = {"kind": "live", "name": "soak", "dim": self.config.params.dim, "seed": self.config.train.seed}
        made = cards.publish(self.live, NAME, Weights({"none": np.zeros(1)}, settings), None, _card())
        return int(made.model.rpartition("@")[2])


def _card() -> Card:
    return Card(family="live", dataset="soak", run=1, metric="recall_at_10")


def descendants(pid: int) -> dict[int, str]:
    """Processes below one, with their commands."""
    parents: dict[int, list[int]] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    found: dict[int, str] = {}
    waiting = [pid] if pid else []
    while waiting:
        for each in parents.get(waiting.pop(), []):
            found[each] = commands.get(each, "")
            waiting.append(each)
    return found


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
