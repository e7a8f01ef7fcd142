"""Shards found by their folder, on whatever machine they are: shared memory where that is this one, TCP else.

A shard that was placed writes into the folder where it listens, and again when it comes back elsewhere; a client reads that
file before each try. So workers need neither Ray nor a list of addresses, only the folder, which also holds the secret.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gyral.engine.links import LinkLost
from gyral.engine.listening import connect
from gyral.errors import GyralError, NotFound
from gyral.files import write_atomic
from gyral.params.channels import Channel
from gyral.params.channels.proc import UnixDoor, connected
from gyral.params.channels.sockets import Loop, SocketChannel, wait
from gyral.params.channels.tcp import CONNECT_S, TcpCodec, TcpDoor
from gyral.params.channels.wanted import want
from gyral.params.serve import Door, Job, made, warm

_JOBS, _SECRET = "shards.json", "secret"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Place(msgspec.Struct):
    """Where a shard listens.

    Attributes
    ----------
    unix : path of its socket, for clients of the same machine (`boot` tells).
    """

    host: str
    port: int
    unix: str
    boot: str
    pid: int


def this_boot() -> str:
    """Of this machine, since it was started; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return _BOOT.read_text().strip()
    return ""


def place_of(folder: Path, number: int) -> Path:
    """The file in which a shard says where it listens."""
    return folder / f"shard{number}.place.json"


def secret_of(folder: Path) -> bytes:
    """Of the server in a folder, made when there is none."""
    path = folder / _SECRET
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            contextlib.suppress(FileExistsError),
            open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file,
        ):
            file.write(secrets.token_bytes(32))
    return path.read_bytes()


def write_jobs(folder: Path, jobs: Sequence[Job]) -> None:
    """Say which shards there are."""
    write_atomic(folder / _JOBS, msgspec.json.encode(list(jobs)))


class FoundTransport:
    """Shards of a folder.

    Parameters
    ----------
    coding : of rows over TCP.

    Raises
    ------
    NotFound : there are none.
    """

    is_copying = True

    def __init__(self, folder: Path, coding: str = "f32") -> None:
        self.folder, self._coding = folder, coding
        self.refresh()
        self._specs = self.jobs[0].specs

    def refresh(self) -> None:
        """Read again which shards there are."""
        try:
            self.jobs = msgspec.json.decode((self.folder / _JOBS).read_bytes(), type=list[Job])
        except FileNotFoundError:
            raise NotFound("no shards were placed here", where=str(self.folder), hint='`open("ray://shards=4", …)`') from None
        self.names = [f"shard {job.number} of `{self.folder}`" for job in self.jobs]

    def grow(self, num: int) -> None:
        """Have whoever placed these shards have `num` at least."""
        want(self.folder, num, False, lambda: self._has(num))

    def _has(self, num: int) -> bool:
        self.refresh()
        return len(self.names) >= num

    def shrink(self, num: int) -> None:
        """Have whoever placed these shards end the last ones."""
        want(self.folder, num, True, lambda: True)

    def connect(self, shard: int) -> Channel:
        """A new link, to where the shard is now."""
        name = self.names[shard]
        try:
            place = msgspec.json.decode(place_of(self.folder, shard).read_bytes(), type=Place)
        except (OSError, msgspec.DecodeError) as error:
            raise LinkLost(f"{name} is not there yet", [name], why=str(error)) from None
        if place.boot and place.boot == this_boot() and os.path.exists(place.unix):
            return connected(place.unix, name, self._specs)
        link = connect((place.host, place.port), secret_of(self.folder), peer=name, timeout_s=CONNECT_S)
        return SocketChannel(link, TcpCodec(self._specs, self._coding, is_shard=False))

    def wait(self, channels: Sequence[Channel], timeout_s: float) -> None:
        """Until one of them can move something."""
        wait(channels, timeout_s)

    def close(self) -> None:
        """Nothing was started here."""


class Serving:
    """A shard in a thread of this process, which ends when the shard does.

    Parameters
    ----------
    host : to listen at.
    on_end : called with the error that ended it, if any; it should end the process, so that whoever placed it starts another.
    """

    def __init__(self, job: Job, folder: Path, host: str, on_end: Callable[[BaseException | None], None]) -> None:
        self._job, self._folder, self._on_end = job, folder, on_end
        self._shard = made(job)
        warm(self._shard)
        self._loop = Loop(self._shard)
        self._sockets = Path(tempfile.mkdtemp(prefix="gyral-shard-"))
        unix = self._sockets / "s.sock"
        tcp = TcpDoor(host, 0, secret_of(folder), self._loop, job.specs)
        self._doors: list[Door] = [tcp, UnixDoor(unix, self._loop, job.specs)]
        self._forget_the_last()
        at, _, port = tcp.address.rpartition(":")
        place = Place(at, int(port), str(unix), this_boot(), os.getpid())
        write_atomic(place_of(folder, job.number), msgspec.json.encode(place))
        self._thread = threading.Thread(target=self._run, name=self._shard.name, daemon=True)
        self._thread.start()

    def _forget_the_last(self) -> None:
        """The socket's folder of one that was killed here."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            last = msgspec.json.decode(place_of(self._folder, self._job.number).read_bytes(), type=Place)
            gone = Path(last.unix).parent
            if last.boot == this_boot() and gone.name.startswith("gyral-shard-"):
                shutil.rmtree(gone, ignore_errors=True)

    def stop(self, timeout_s: float) -> None:
        """End it after a last cut."""
        self._loop.stop()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._loop.run()
        except GyralError as caught:
            error = caught
        except BaseException as caught:
            error = caught
            traceback.print_exc()
        finally:
            with contextlib.suppress(GyralError):
                self._shard.close()
            shutil.rmtree(self._sockets, ignore_errors=True)
            for door in self._doors:
                door.close()
            self._loop.close()
        self._on_end(error)
