"""A shard as a process: `python -m gyral.params.serve job.json`, and what a job is.

    {"number": 0, "num": 2, "specs": [{"name": "items", "dim": 32}], "folder": "server/shard0", "listen": "127.0.0.1:7001",
     "secret": "server/secret"}

The loop answers whoever has something to say, one frame after the other, writes parts of cuts in between, and ends by SIGTERM
after a last cut. It listens on 127.0.0.1 unless told, for those who hold the secret (a file of at least 16 bytes).

With `--spare` the job is only of the kind that may come: everything that a start costs besides reading a folder (Python, numba,
each kernel: a second or two) is done, and then a line is waited for that names the job and the file for its output.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from gyral.errors import ConfigError, GyralError
from gyral.params.channels.sockets import Loop
from gyral.params.held import Entry
from gyral.params.keep import Keep
from gyral.params.shard import Settings, Shard
from gyral.params.spec import TableSpec

TABLE = "gyral.params.table:Table"
KEEP = "gyral.params.deltas:Deltas"
LEAST_SECRET = 16


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shard.

    Attributes
    ----------
    num : shards that the server began with: who owns what before anything has moved. One that comes later keeps this `num`
        and has a `number` from it on.
    folder : empty: nothing is kept.
    listen : `host:port`, or the path of a Unix socket.
    secret : file that holds it; of TCP alone, as a Unix socket takes only this user.
    parent : process without which this one ends; 0: none.
    """

    number: int
    num: int
    specs: list[TableSpec]
    listen: str = ""
    settings: Settings = Settings()
    folder: str = ""
    secret: str = ""
    table: str = ""
    keep: str = ""
    parent: int = 0


class Door(Protocol):
    """Where clients come in; `address` in words."""

    address: str

    def close(self) -> None: ...


def made(job: Job) -> Shard:
    """The shard of a job, with what its folder holds.

    Raises
    ------
    InputError : of what is on the disk.
    """
    keep: Keep | None = None
    if job.folder:
        keep = _named(job.keep or KEEP)(Path(job.folder), job.specs)
    table: Callable[[TableSpec], Any] = _named(job.table or TABLE)
    return Shard(job.specs, job.number, job.num, job.settings, table, keep, time.monotonic(), time.time)


def numbered(job: Job, number: int) -> Job:
    """The same for another shard."""
    folder = str(Path(job.folder).with_name(f"shard{number}")) if job.folder else ""
    return msgspec.structs.replace(job, number=number, folder=folder)


def _read(path: str) -> Job:
    return msgspec.json.decode(Path(path).read_bytes(), type=Job)


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def door(job: Job, loop: Loop) -> Door:
    """Listen where the job says."""
    if "/" in job.listen:
        from gyral.params.channels.proc import UnixDoor

        return UnixDoor(Path(job.listen), loop, job.specs)
    from gyral.params.channels.tcp import TcpDoor

    secret = Path(job.secret).read_bytes() if job.secret else b""
    if len(secret) < LEAST_SECRET:
        hint = "`head -c 32 /dev/urandom > secret`, and the same file for the workers"
        raise ConfigError(f"a shard behind TCP needs a secret of at least {LEAST_SECRET} bytes", where=job.secret, hint=hint)
    host, _, port = job.listen.rpartition(":")
    return TcpDoor(host or "127.0.0.1", int(port or 0), secret, loop, job.specs)


def warm(shard: Shard) -> None:
    """Have every kernel loaded (or compiled) before anybody waits for one: a first move would hold workers up for a second."""
    for held in shard.tables:
        spec = held.table.spec
        table, key = type(held.table)(spec), np.zeros(1, np.int64)  # type: ignore[call-arg]
        table.push(key, np.zeros((1, spec.dim), np.float32))
        table.pull(key)
        found = table.cut().buckets
        for bucket in found[:1].tolist():
            table.load(bucket, *table.export(bucket))
            table.drop(bucket)
        held.has(key, held.owned)


def rehearse(job: Job) -> None:
    """Cut and recover a shard of this kind in a folder of its own, so that its kernels are loaded."""
    with tempfile.TemporaryDirectory() as name:
        small = msgspec.structs.replace(job, folder=name, num=1, number=0)
        for _ in range(2):
            shard = made(small)
            for number, held in enumerate(shard.tables):
                grads = np.zeros((1, held.table.spec.dim), np.float32)
                held.push(Entry(number, 0, held.last(0) + 1, 0, np.zeros(1, np.int64), grads), time.monotonic())
            shard.close()
        warm(shard)


def awaited(job: Job) -> Job | None:
    """Be the spare of such shards until one dies: the job of that one; None: nobody will ask any more."""
    rehearse(job)
    print(f"process {os.getpid()} waits to take the place of a shard", flush=True)
    path, _, log = sys.stdin.readline().rstrip("\n").partition("\t")
    if not path:
        return None
    number = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(number, stream.fileno())
    return _read(path)


def run(job: Job) -> None:
    """Serve until SIGTERM, or until the parent is gone."""
    shard = made(job)
    warm(shard)
    loop = Loop(shard)
    entry = door(job, loop)
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    print(f"{shard.name} serves at {entry.address}", flush=True)
    try:
        loop.run(lambda: bool(job.parent) and os.getppid() != job.parent)
    finally:
        entry.close()
        loop.close()
        shard.close()
        print(f"{shard.name} ends: {describe(shard.stats())}", flush=True)


def describe(stats: Mapping[str, Any]) -> str:
    """One line for a log."""
    return ", ".join(f"{name} {value:,}" for name, value in stats.items() if isinstance(value, int))


def main() -> int:
    """Exit code of the process."""
    try:
        job: Job | None = _read(sys.argv[-1])
        if "--spare" in sys.argv and job is not None:
            job = awaited(job)
        if job is not None:
            run(job)
    except GyralError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
