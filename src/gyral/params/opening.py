"""An address to shards: started here, or found where they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from gyral.errors import ConfigError
from gyral.files import write_atomic
from gyral.params.channels import Transport
from gyral.params.ownership import MAX_SHARDS
from gyral.params.serve import Job, made, numbered
from gyral.params.shard import Settings
from gyral.params.spec import TableSpec


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
        first, num = _began(folder, int(rest))
        job = Job(
            0, first, list(specs), folder=str(folder / "shard0") if folder else "", settings=settings, table=table, keep=keep
        )
        jobs = [numbered(job, number) for number in range(num)]
        return _local(jobs, settings) if kind == "local" else _proc(jobs, settings, folder)
    if kind == "ray":
        return _ray(rest, specs, settings, folder, coding, table, keep)
    if kind == "shards":
        return _found(Path(rest), settings, coding)
    if kind == "unix":
        return _unix(Path(rest), settings)
    if kind == "tcp":
        from gyral.params.channels.tcp import TcpTransport

        def tcp() -> Opened:
            return Opened(TcpTransport(rest.split(","), specs, secret, coding), settings, address, tcp)

        return tcp()
    hint = (
        "`local://1`, `proc://4`, `unix://folder`, `tcp://127.0.0.1:7001,127.0.0.1:7002`, `ray://shards=2`, `shards://folder`"
    )
    raise ConfigError(f"`{address}` is no address of shards", hint=hint)


def found_at(address: str) -> tuple[Opened, list[TableSpec]]:
    """Shards that others started, and their tables: for tools, which know neither.

    Raises
    ------
    ConfigError : an address that does not say where to find them.
    NotFound : there are none.
    """
    from gyral.params.channels.placed import FoundTransport
    from gyral.params.channels.proc import UnixTransport

    kind, _, rest = address.partition("://")
    if kind not in ("unix", "shards") or not rest:
        raise ConfigError(
            f"`{address}` is no folder of shards", hint="`unix://folder` or `shards://folder`: a client's `address`"
        )
    transport = UnixTransport(Path(rest)) if kind == "unix" else FoundTransport(Path(rest))
    job = transport.jobs[0]
    found = _unix(Path(rest), job.settings) if kind == "unix" else _found(Path(rest), job.settings, "f32")
    return found, job.specs


def _began(folder: Path | None, num: int) -> tuple[int, int]:
    """How many shards the server in a folder began with, and how many must run: each that ever was there may own buckets."""
    if folder is None:
        return num, num
    path = folder / "began.json"
    try:
        first = int(msgspec.json.decode(path.read_bytes())["shards"])
    except FileNotFoundError:
        write_atomic(path, msgspec.json.encode({"shards": num}))
        return num, num
    return first, max(num, first, *(1 + int(each.name[5:]) for each in folder.glob("shard[0-9]*") if each.is_dir()))


def _local(jobs: list[Job], settings: Settings) -> Opened:
    """In one process nobody is lost alone, so leases do not end unless a length is asked for."""
    from gyral.params.channels.local import LocalTransport

    if settings.lease_s == Settings().lease_s:
        settings = msgspec.structs.replace(settings, lease_s=math.inf, join_s=math.inf)
        jobs = [msgspec.structs.replace(job, settings=settings) for job in jobs]
    job = jobs[0]
    first = LocalTransport(lambda number: made(numbered(job, number)), len(jobs))

    def again() -> Opened:
        return Opened(first.joined(), settings, "", again)

    return Opened(first, settings, "", again)


def _proc(jobs: list[Job], settings: Settings, folder: Path | None) -> Opened:
    from gyral.params.channels.proc import Launched

    launched = Launched(jobs, folder)
    address = f"unix://{launched.folder}"
    return Opened(launched, settings, address, lambda: _unix(launched.folder, settings))


def _ray(
    rest: str, specs: Sequence[TableSpec], settings: Settings, folder: Path | None, coding: str, table: str, keep: str
) -> Opened:
    parts = dict(part.partition("=")[::2] for part in rest.split(","))
    num = parts.pop("shards", "")
    if not num.isdecimal() or not 0 < int(num) <= MAX_SHARDS or len(parts) > 1 or any(parts.values()):
        hint = "`ray://shards=2` for a Ray of this machine, `ray://auto,shards=16` or `ray://HOST:PORT,shards=16` to join one"
        raise ConfigError(f"`ray://{rest}` is no address of shards", hint=hint)
    if folder is None:
        hint = "`folder=`: one that all machines see under the same name"
        raise ConfigError("shards placed by Ray need a folder, from which one that died comes back", hint=hint)
    from gyral.params.channels.ray import RayPlaced

    folder = folder.resolve()
    first, many = _began(folder, int(num))
    job = Job(0, first, list(specs), folder=str(folder / "shard0"), settings=settings, table=table, keep=keep)
    placed = RayPlaced(next(iter(parts), ""), [numbered(job, number) for number in range(many)], folder, coding)
    return Opened(placed, settings, f"shards://{folder}", lambda: _found(folder, settings, coding))


def _found(folder: Path, settings: Settings, coding: str) -> Opened:
    from gyral.params.channels.placed import FoundTransport

    return Opened(FoundTransport(folder, coding), settings, f"shards://{folder}", lambda: _found(folder, settings, coding))


def _unix(folder: Path, settings: Settings) -> Opened:
    from gyral.params.channels.proc import UnixTransport

    return Opened(UnixTransport(folder), settings, f"unix://{folder}", lambda: _unix(folder, settings))
