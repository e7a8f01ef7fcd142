"""How a worker is started: by a socket that it inherits here, over TCP with a secret elsewhere.

A worker that inherits one end of a socket pair needs no address, no secret and no door that a stranger could knock at. One
that is placed elsewhere connects to the gateway (`engine.listening`), so the gateway alone listens, and a worker that comes
back anywhere finds it. Whoever starts processes is a `ranks.Start`: of this machine, or of Ray (`engine.ray_ranks.placing`),
which then carries not a single request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

import msgspec

from gyral.engine import ranks
from gyral.engine.links import Link
from gyral.engine.listening import Listener
from gyral.errors import ServeError
from gyral.serve.job import Job

GRACE_S = 5.0


class Running(NamedTuple):
    """A worker that was started: its process, the link to it, and its log."""

    process: ranks.Started
    link: Link
    log: Path


class Starter:
    """Starts workers and gives the link to each.

    Parameters
    ----------
    folder : gets `worker<n>.json` and `worker<n>.log`; for placed workers one that all machines see under the same name.
    start : starts a process; here by default.
    host : address that placed workers reach this process at; empty: workers inherit a socket.
    """

    def __init__(self, folder: Path, start: ranks.Start = ranks.start, host: str = "") -> None:
        self._folder, self._start, self._host = folder, start, host
        self._secret = secrets.token_bytes(32)
        self._expected: dict[str, asyncio.Future[Link]] = {}
        self._listener: Listener | None = None
        self._loop = asyncio.get_running_loop()
        if host:
            self._listener = Listener(self._secret, host=host, on_link=self._arrived)

    async def start(self, job: Job, timeout_s: float) -> Running:
        """A new process, and the link to it.

        Raises
        ------
        ServeError : it has not connected in this time, or ended before.
        """
        log = self._folder / f"worker{job.number}.log"
        if self._listener is not None:
            return await self._placed(job, log, f"{self._host}:{self._listener.port}", timeout_s)
        ours, theirs = socket.socketpair()
        with theirs:
            job = msgspec.structs.replace(job, socket=theirs.fileno())
            path = self._write(job)
            command, environment = ["-m", "gyral.serve.worker", str(path)], job.environment
            starting = asyncio.ensure_future(asyncio.to_thread(ranks.start, command, log, environment, (theirs.fileno(),)))
            try:
                process = await asyncio.shield(starting)
            except BaseException:
                ours.close()  # a process that starts all the same finds its link ended
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(end_process, await starting, 0.0)
                raise
        return Running(process, Link(ours, f"worker {job.number}"), log)

    async def _placed(self, job: Job, log: Path, address: str, timeout_s: float) -> Running:
        token = secrets.token_hex(16)
        job = msgspec.structs.replace(job, address=address, secret=self._secret.hex(), token=token)
        command = ["-m", "gyral.serve.worker", str(self._write(job))]
        coming = self._expected[token] = self._loop.create_future()
        process: ranks.Started | None = None
        try:
            starting = asyncio.ensure_future(asyncio.to_thread(self._start, command, log, job.environment))
            try:
                process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                process = await starting  # it comes all the same, and is ended below
                raise
            end = self._loop.time() + timeout_s
            while not coming.done():
                await asyncio.wait([coming], timeout=0.25)
                if not coming.done() and (code := await asyncio.to_thread(process.poll)) is not None:
                    raise ServeError(f"worker {job.number} ended with {code}", why=ranks.tail(log), where=str(log))
                if not coming.done() and self._loop.time() > end:
                    raise ServeError(f"worker {job.number} did not connect in {timeout_s:g} s", where=str(log))
        except BaseException:
            if coming.done() and not coming.cancelled():
                coming.result().close()
            if process is not None:
                await asyncio.to_thread(end_process, process, 0.0)
            raise
        finally:
            self._expected.pop(token, None)
        link = coming.result()
        link.peer = f"worker {job.number} at {link.peer}"
        return Running(process, link, log)

    def close(self) -> None:
        """Take no more."""
        if self._listener is not None:
            self._listener.close()

    def _write(self, job: Job) -> Path:
        """For this user's eyes, because of the secret."""
        path = self._folder / f"worker{job.number}.json"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(msgspec.json.encode(job))
        return path

    def _arrived(self, link: Link) -> None:
        """From the listener's thread."""
        try:
            self._loop.call_soon_threadsafe(self._admit, link)
        except RuntimeError:  # the loop is over
            link.close()

    def _admit(self, link: Link) -> None:
        coming = self._expected.get(link.hello.decode("ascii", "replace"))
        if coming is None or coming.done():
            link.close()
        else:
            coming.set_result(link)


def end_process(process: ranks.Started, grace_s: float = GRACE_S) -> int:
    """Wait for the end of a process, killed after `grace_s`; its exit code. Blocks."""
    try:
        return process.wait(grace_s) if grace_s > 0 else _killed(process)
    except subprocess.TimeoutExpired:
        return _killed(process)


def _killed(process: ranks.Started) -> int:
    code = process.poll()
    if code is None:
        process.kill()
        code = process.wait(GRACE_S)
    return code
