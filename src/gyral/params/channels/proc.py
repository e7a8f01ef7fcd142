"""Shards in processes of this machine: a Unix socket for heads, shared memory for arrays (`channels.shared`).

`Launched` starts them, watches them, and starts one that died again, from its folder; without a folder its rows are gone, and
that is an error. Where they have folders a spare is kept that has everything but a folder behind it (110 MB): a start of Python
would be most of the time for which nobody answers. Workers of other processes join by the folder of the sockets, which only
this user may enter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
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
from gyral.params.channels.wanted import done, heard, want
from gyral.params.serve import Job, numbered
from gyral.params.spec import TableSpec

RESTARTS = 100
STOP_S = 60.0
HANDOVER_S = 1.0
LOOK_S = 0.05
SPARE_S, MAX_SPARE_S = 2.0, 60.0
"""Until there is a spare, which others who start shall not wait for; and until one that ended by itself is tried again."""
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


def connected(path: str, name: str, specs: Sequence[TableSpec]) -> Channel:
    """A link to a shard of this machine, with memory of its own.

    Raises
    ------
    LinkLost : it does not answer now.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    number = -1
    try:
        connection.connect(path)
        number = new_memory()
        socket.send_fds(connection, [b"m"], [number])
        return SocketChannel(Link(connection, name), ClientCodec(mapped(number), specs))
    except OSError as error:
        connection.close()
        if number >= 0:
            with contextlib.suppress(OSError):
                os.close(number)
        raise LinkLost(f"{name} takes no connection", [name], why=str(error)) from None


class UnixTransport:
    """Shards whose sockets are in a folder.

    Raises
    ------
    NotFound : there are none.
    """

    is_copying = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.refresh()
        self._specs = self.jobs[0].specs

    def refresh(self) -> None:
        """Read again which shards there are."""
        try:
            self.jobs = msgspec.json.decode((self._folder / _JOBS).read_bytes(), type=list[Job])
        except FileNotFoundError:
            raise NotFound("no shards run here", where=str(self._folder), hint='`open("proc://4", …)` starts some') from None
        self.names = [f"shard {job.number} of {len(self.jobs)} on `{socket.gethostname()}`" for job in self.jobs]

    def grow(self, num: int) -> None:
        """Have whoever started these shards have `num` at least."""
        want(self._folder, num, False, lambda: self._has(num))

    def _has(self, num: int) -> bool:
        self.refresh()
        return len(self.names) >= num

    def shrink(self, num: int) -> None:
        """Have whoever started these shards end the last ones."""
        want(self._folder, num, True, lambda: True)

    def connect(self, shard: int) -> Channel:
        """A new link, with memory of its own."""
        return connected(self.jobs[shard].listen, self.names[shard], self._specs)

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
        self._given, self.processes, self.deaths = list(jobs), list[ranks.Started](), list[int]()
        self._ended: set[int] = set()
        self._spare: subprocess.Popen[bytes] | None = None
        self._spare_at = time.monotonic() + SPARE_S
        self.error: RankError | None = None
        self._is_closed, self._changing = threading.Event(), threading.Lock()
        self._write(self._given)
        super().__init__(self._sockets)
        self.grow(len(jobs))
        self._watcher = threading.Thread(target=self._watch, name="shards", daemon=True)
        self._watcher.start()

    def _write(self, jobs: list[Job]) -> None:
        jobs = [
            msgspec.structs.replace(job, listen=str(self._sockets / f"{job.number}.sock"), parent=os.getpid()) for job in jobs
        ]
        for job in jobs:
            write_atomic(self._sockets / f"{job.number}.json", msgspec.json.encode(job))
        write_atomic(self._sockets / _JOBS, msgspec.json.encode(jobs))

    def grow(self, num: int) -> None:
        """Have `num` shards at least; those that come own nothing yet."""
        with self._changing:
            jobs = self._given + [numbered(self._given[0], number) for number in range(len(self._given), num)]
            self._given = jobs
            self._write(jobs)
            self.refresh()
            for number in range(len(jobs)):
                if number == len(self.processes):
                    self.deaths.append(0)
                    self.processes.append(self._start(number))
                elif number < num and number in self._ended:
                    self.processes[number] = self._start(number)
                    self._ended.discard(number)

    def shrink(self, num: int) -> None:
        """End the last ones; their folders stay."""
        with self._changing:
            self._ended |= set(range(num, len(self.processes)))
            _stop(self.processes[num:])

    def _hear(self) -> None:
        """Do what somebody in another process wants."""
        if (wanted := heard(self._sockets)) is not None:
            if wanted.end:
                self.shrink(wanted.shards)
            else:
                self.grow(wanted.shards)
            done(self._sockets)

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
        if self._spare is not None:
            self._spare.kill()
            self._spare.communicate()
        _stop(self.processes)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _start(self, number: int) -> ranks.Started:
        command = ["-m", "gyral.params.serve", str(self._sockets / f"{number}.json")]
        return ranks.start(command, self._logs / f"shard{number}.log", {})

    def _again(self, number: int) -> ranks.Started:
        """One in the place of one that died: the spare, if it is there."""
        spare, self._spare = self._spare, None
        self._spare_at = time.monotonic() + SPARE_S
        if spare is not None and spare.stdin is not None:
            with contextlib.suppress(OSError), spare.stdin as told:
                told.write(f"{self._sockets / f'{number}.json'}\t{self._logs / f'shard{number}.log'}\n".encode())
            if spare.poll() is None:
                return spare
        return self._start(number)

    def _have_spare(self) -> None:
        is_there = self._spare is not None and self._spare.poll() is None
        if is_there or not self._is_kept or time.monotonic() < self._spare_at:
            return
        if self._spare is not None:
            self._spare.communicate()  # it ended by itself; its log says why
        with open(self._logs / "spare.log", "ab") as log:
            command = [sys.executable, "-P", "-m", "gyral.params.serve", "--spare", str(self._sockets / "0.json")]
            environment = {**os.environ, **ranks.QUIET}
            self._spare = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        self._spare_at = time.monotonic() + MAX_SPARE_S

    def _watch(self) -> None:
        while not self._is_closed.wait(LOOK_S):
            self._hear()
            self._have_spare()
            for number, process in enumerate(self.processes):
                code = process.poll()
                if code is None or self.error is not None or number in self._ended:
                    continue
                self.deaths[number] += 1
                if code < 0 and self._is_kept and self.deaths[number] <= RESTARTS:
                    self.processes[number] = self._again(number)
                    continue
                log = self._logs / f"shard{number}.log"
                how = f"was ended by signal {-code}" if code < 0 else f"stopped with code {code}"
                hint = (
                    "the log holds what came before"
                    if self._is_kept
                    else "give it a `folder`, so that it comes back with its rows"
                )
                self.error = RankError(f"{self.names[number]} {how}", why=ranks.tail(log), where=str(log), hint=hint)


def _stop(processes: Sequence[ranks.Started]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
