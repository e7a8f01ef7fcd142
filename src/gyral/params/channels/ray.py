"""Shards placed by Ray: an actor is a shard, wherever there is room. Ray places and restarts; it never carries a row.

A call of an actor costs .8 ms and its arguments move at .3 to 1.3 GB/s; the same rows go over shared memory or TCP at 10 to 40
times that (`channels.placed`). An actor that dies, or whose machine does, is started again by Ray without end; it recovers from
its folder, writes where it listens, and workers send again what was not durable. One that was cut off and goes on beside its
successor is refused by the log in the folder at its next cut, and ends.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gyral.engine.base import connect
from gyral.engine.links import LinkLost
from gyral.engine.listening import LOOPBACK
from gyral.engine.ray import library
from gyral.errors import GyralError, RankError
from gyral.params.channels import Channel
from gyral.params.channels.placed import FoundTransport, Serving, place_of, secret_of, write_jobs
from gyral.params.channels.wanted import LOOK_S, done, heard
from gyral.params.serve import Job, numbered

STOP_S = 60.0


class Host:
    """The actor."""

    def __init__(self, job: bytes, folder: str, driver: str) -> None:
        here = library().util.get_node_ip_address()
        listen = here if driver != LOOPBACK else LOOPBACK
        self.error = ""
        try:
            self._serving = Serving(msgspec.json.decode(job, type=Job), Path(folder), listen, _ended)
        except GyralError as error:  # of its folder: another try finds the same
            self.error = str(error)

    def trouble(self) -> str:
        """Why it does not serve."""
        return self.error

    def stop(self) -> None:
        """A last cut."""
        if not self.error:
            self._serving._on_end = lambda _: None
            self._serving.stop(STOP_S)


def _ended(error: BaseException | None) -> None:
    print(f"shard ends: {error}", flush=True)
    os._exit(1)


class RayPlaced(FoundTransport):
    """Shards that this process has placed; they end with it.

    Parameters
    ----------
    address : of a cluster to join; empty: a Ray of this machine.
    """

    def __init__(self, address: str, jobs: Sequence[Job], folder: Path, coding: str) -> None:
        self._engine = connect(f"ray://{address}" if address else f"ray://workers={len(jobs)}")
        self._ray, self._is_own = library(), not address
        self._actors: list[Any] = []
        self._looks: dict[int, Any] = {}
        self._is_closed, self._changing = threading.Event(), threading.RLock()
        self._watcher = threading.Thread(target=self._hear, name="shards", daemon=True)
        try:
            secret_of(folder)
            write_jobs(folder, jobs)
            super().__init__(folder, coding)
            self.grow(len(jobs))
            self._watcher.start()
        except BaseException:
            self.close()
            raise

    def connect(self, shard: int) -> Channel:
        """A new link.

        Raises
        ------
        RankError : the shard cannot serve, and will not.
        """
        try:
            return super().connect(shard)
        except LinkLost:
            self._look(shard)
            raise

    def _look(self, shard: int) -> None:
        """Ask the actor what is wrong, without waiting for its answer: that is for a later try."""
        if shard >= len(self._actors) or self._actors[shard] is None:
            return
        ray, look = self._ray, self._looks.pop(shard, None)
        if look is None:
            self._looks[shard] = self._actors[shard].trouble.remote()
            return
        if not ray.wait([look], timeout=0)[0]:
            self._looks[shard] = look
            return
        try:
            why = ray.get(look)
        except ray.exceptions.ActorUnavailableError:
            return
        except ray.exceptions.RayActorError as error:
            why = str(error).strip().splitlines()[-1]
        if why:
            raise RankError(f"{self.names[shard]} does not serve", why=why, where=str(self.folder))

    def _hear(self) -> None:
        """Do what somebody in another process wants."""
        while not self._is_closed.wait(LOOK_S):
            if (wanted := heard(self.folder)) is not None:
                if wanted.end:
                    self.shrink(wanted.shards)
                else:
                    self.grow(wanted.shards)
                done(self.folder)

    def grow(self, num: int) -> None:
        """Have `num` shards at least; those that come own nothing yet."""
        with self._changing:
            self._grow(num)

    def _grow(self, num: int) -> None:
        ray, jobs = self._ray, self.jobs
        jobs = jobs + [numbered(jobs[0], number) for number in range(len(jobs), num)]
        write_jobs(self.folder, jobs)
        self.refresh()
        self._actors += [None] * (len(jobs) - len(self._actors))
        driver = ray.util.get_node_ip_address()
        options = {"num_cpus": 0 if self._is_own else 1, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
        for number in range(num):
            if self._actors[number] is None:
                place_of(self.folder, number).unlink(missing_ok=True)
                made = ray.remote(Host).options(**options)
                self._actors[number] = made.remote(msgspec.json.encode(jobs[number]), str(self.folder), driver)

    def shrink(self, num: int) -> None:
        """End the last ones; their folders stay."""
        with self._changing:
            self._end(range(num, len(self._actors)))

    def _end(self, numbers: Sequence[int]) -> None:
        ray = self._ray
        ending = [self._actors[number].stop.remote() for number in numbers if self._actors[number] is not None]
        ray.wait(ending, num_returns=len(ending), timeout=STOP_S) if ending else None
        for number in numbers:
            if self._actors[number] is not None:
                ray.kill(self._actors[number], no_restart=True)
                self._actors[number] = None
                place_of(self.folder, number).unlink(missing_ok=True)

    def close(self) -> None:
        """End the shards; what they hold is in their folders. May be called twice."""
        if self._engine is not None:
            self._is_closed.set()
            if self._watcher.is_alive():
                self._watcher.join()
            self._end(range(len(self._actors)))
            engine, self._engine = self._engine, None  # type: ignore[assignment]
            engine.close()
