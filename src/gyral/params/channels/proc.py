"""Shards in processes of this machine: a Unix socket for heads, shared memory for arrays (`channels.shared`).

`Launched` starts them, watches them, and starts one that died again, from its folder; without a folder its rows are gone, and
that is an error. Workers of other processes join by the folder of the sockets, which only this user may enter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gyral.engine import ranks
from gyral.engine.links import Link, LinkLost
from gyral.errors import NotFound, RankError
from gyral.files import make_folder, write_atomic
from gyral.params.channels import Channel
from gyral.params.channels.shared import ClientCodec, ShardCodec, mapped, new_memory
from gyral.params.channels.sockets import Loop, SocketChannel, wait
from gyral.params.serve import Job
from gyral.params.spec import TableSpec

RESTARTS = 100
STOP_S = 60.0
HANDOVER_S = 1.0
LOOK_S = 0.05
_JOBS = "jobs.json"
_PEER = struct.Struct("3i")


class UnixDoor:
    """Where clients of a shard come in: a socket file that only this user reaches."""

    def __init__(self, path: Path, loop: Loop, specs: Sequence[TableSpec]) -> None:
        self._path, self._loop, self._specs, self.address = path, loop, specs, str(path)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(128)
        self._socket.setblocking(False)
        loop.watch(self._socket.fileno(), lambda _: self._accept())

    def close(self) -> None:
        """Take no more."""
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        try:
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            if _PEER.unpack(peer)[1] != os.getuid():
                raise OSError("another user")
            connection.settimeout(HANDOVER_S)
            _, numbers, _, _ = socket.recv_fds(connection, 1, 1)
            codec = ShardCodec(mapped(numbers[0]), self._specs)
        except (OSError, ValueError, IndexError):
            connection.close()
            return
        self._loop.admit(Link(connection, f"process {_PEER.unpack(peer)[0]}"), codec)


class UnixTransport:
    """Shards whose sockets are in a folder.

    Raises
    ------
    NotFound : there are none.
    """

    is_copying = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.jobs = msgspec.json.decode((folder / _JOBS).read_bytes(), type=list[Job])
        except FileNotFoundError:
            raise NotFound("no shards run here", where=str(folder), hint='`open("proc://4", …)` starts some') from None
        self._specs = self.jobs[0].specs
        self.names = [f"shard {job.number} of {job.num} on `{socket.gethostname()}`" for job in self.jobs]

    def connect(self, shard: int) -> Channel:
        """A new link, with memory of its own."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        number = -1
        try:
            connection.connect(self.jobs[shard].listen)
            number = new_memory()
            socket.send_fds(connection, [b"m"], [number])
            link = Link(connection, self.names[shard])
            return SocketChannel(link, ClientCodec(mapped(number), self._specs))
        except OSError as error:
            connection.close()
            if number >= 0:
                with contextlib.suppress(OSError):
                    os.close(number)
            raise LinkLost(f"{self.names[shard]} takes no connection", [self.names[shard]], why=str(error)) from None

    def wait(self, channels: Sequence[Channel], timeout_s: float) -> None:
        """Until one of them can move something."""
        wait(channels, timeout_s)

    def close(self) -> None:
        """Nothing was started here."""


class Launched(UnixTransport):
    """Shards that this process has started; they end with it.

    Parameters
    ----------
    folder : for logs; without one, a temporary folder.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path | None) -> None:
        self._is_kept = folder is not None
        self._sockets = Path(tempfile.mkdtemp(prefix="gyral-shards-"))  # 0700, and a path that is short enough
        self._logs = folder if folder is not None else self._sockets
        make_folder(self._logs)
        jobs = [
            msgspec.structs.replace(job, listen=str(self._sockets / f"{job.number}.sock"), parent=os.getpid()) for job in jobs
        ]
        write_atomic(self._sockets / _JOBS, msgspec.json.encode(jobs))
        for job in jobs:
            write_atomic(self._sockets / f"{job.number}.json", msgspec.json.encode(job))
        super().__init__(self._sockets)
        self.deaths = [0] * len(jobs)
        self.error: RankError | None = None
        self._is_closed = threading.Event()
        self.processes = [self._start(number) for number in range(len(jobs))]
        self._watcher = threading.Thread(target=self._watch, name="shards", daemon=True)
        self._watcher.start()

    @property
    def folder(self) -> Path:
        """Where others find the sockets."""
        return self._sockets

    def connect(self, shard: int) -> Channel:
        """A new link.

        Raises
        ------
        RankError : the shard has died, and will not come back.
        """
        if self.error is not None:
            raise self.error
        return super().connect(shard)

    def close(self) -> None:
        """End the shards; what they hold is in their folders. May be called twice."""
        if self._is_closed.is_set():
            return
        self._is_closed.set()
        self._watcher.join()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(STOP_S)
            except Exception:
                process.kill()
                process.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _start(self, number: int) -> ranks.Started:
        command = ["-m", "gyral.params.serve", str(self._sockets / f"{number}.json")]
        return ranks.start(command, self._logs / f"shard{number}.log", {})

    def _watch(self) -> None:
        while not self._is_closed.wait(LOOK_S):
            for number, process in enumerate(self.processes):
                code = process.poll()
                if code is None or self.error is not None:
                    continue
                self.deaths[number] += 1
                if code < 0 and self._is_kept and self.deaths[number] <= RESTARTS:
                    self.processes[number] = self._start(number)
                    continue
                log = self._logs / f"shard{number}.log"
                how = f"was ended by signal {-code}" if code < 0 else f"stopped with code {code}"
                hint = (
                    "the log holds what came before"
                    if self._is_kept
                    else "give it a `folder`, so that it comes back with its rows"
                )
                self.error = RankError(f"{self.names[number]} {how}", why=ranks.tail(log), where=str(log), hint=hint)
