"""An address to shards: started here, or found where they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from gyral.errors import ConfigError
from gyral.params.channels import Transport
from gyral.params.serve import Job, made
from gyral.params.shard import Settings
from gyral.params.spec import TableSpec

MAX_SHARDS = 256


class Opened(NamedTuple):
    """Shards of an address; `again` makes a transport of the same for another worker of this process."""

    transport: Transport
    settings: Settings
    address: str
    again: Callable[[], Opened]


def opened(
    address: str, specs: Sequence[TableSpec], settings: Settings, folder: Path | None, secret: bytes, coding: str, table: str,
    keep: str,
) -> Opened:  # fmt: skip
    """See `gyral.params.client.open`."""
    if len({spec.name for spec in specs}) != len(specs) or not specs:
        raise ConfigError("tables need names of their own, and one at least")
    kind, _, rest = address.partition("://")
    if kind in ("local", "proc"):
        if not rest.isdecimal() or not 0 < int(rest) <= MAX_SHARDS:
            raise ConfigError(f"`{address}` is no address of shards", hint=f"`{kind}://4`: how many, at most {MAX_SHARDS}")
        jobs = [
            Job(number, int(rest), list(specs), folder=str(folder / f"shard{number}") if folder else "", settings=settings,
                table=table, keep=keep)
            for number in range(int(rest))
        ]  # fmt: skip
        return _local(jobs, settings) if kind == "local" else _proc(jobs, settings, folder)
    if kind == "unix":
        return _unix(Path(rest), settings)
    if kind == "tcp":
        from gyral.params.channels.tcp import TcpTransport

        def tcp() -> Opened:
            return Opened(TcpTransport(rest.split(","), specs, secret, coding), settings, address, tcp)

        return tcp()
    hint = "`local://1`, `proc://4`, `unix://folder`, `tcp://127.0.0.1:7001,127.0.0.1:7002`"
    raise ConfigError(f"`{address}` is no address of shards", hint=hint)


def _local(jobs: list[Job], settings: Settings) -> Opened:
    """In one process nobody is lost alone, so leases do not end unless a length is asked for."""
    from gyral.params.channels.local import LocalTransport

    if settings.lease_s == Settings().lease_s:
        settings = msgspec.structs.replace(settings, lease_s=math.inf, join_s=math.inf)
        jobs = [msgspec.structs.replace(job, settings=settings) for job in jobs]
    first = LocalTransport([made(job) for job in jobs])

    def again() -> Opened:
        return Opened(first.joined(), settings, "", again)

    return Opened(first, settings, "", again)


def _proc(jobs: list[Job], settings: Settings, folder: Path | None) -> Opened:
    from gyral.params.channels.proc import Launched

    launched = Launched(jobs, folder)
    address = f"unix://{launched.folder}"
    return Opened(launched, settings, address, lambda: _unix(launched.folder, settings))


def _unix(folder: Path, settings: Settings) -> Opened:
    from gyral.params.channels.proc import UnixTransport

    return Opened(UnixTransport(folder), settings, f"unix://{folder}", lambda: _unix(folder, settings))
