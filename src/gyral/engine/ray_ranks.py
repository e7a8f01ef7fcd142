"""Ranks placed by Ray: the same commands with the same supervision, each started by an actor wherever a core is free.

Ray only places: an actor starts the process, says whether it still lives, and passes signals on. Who is started again, and when
a run has failed, is decided by `engine.ranks` as on one machine, because Ray's own recovery starts the whole group again (19 s
and four steps redone, measured on a toy). A lost machine takes its actors along; that counts as the death of their ranks, and
they are placed anew.

The run's folder must be one that all machines see under the same name: jobs, logs and weights travel through it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gyral.engine import ranks
from gyral.engine.base import connect
from gyral.engine.listening import LOOPBACK
from gyral.engine.ray import enter_folder, library
from gyral.errors import RankError

PLACE_S = 60.0
"""For Ray to find a core and start a process there."""
ANSWER_S = 10.0
IFNAME = "GLOO_SOCKET_IFNAME"
"""Without it gloo listens where the name of the machine leads to, which on Debian is 127.0.1.1."""
_SIOCGIFADDR = 0x8915


@contextlib.contextmanager
def placing(on: str, note: Callable[[str], None] = lambda _: None) -> Iterator[tuple[ranks.Start, str]]:
    """What starts ranks under `--on`, and the address at which they reach this process.

    Raises
    ------
    GyralError : what `engine.base.connect` says of it.
    """
    if on.partition("://")[0] != "ray":
        yield ranks.start, LOOPBACK
        return
    engine = connect(on, note)
    try:
        host = library().util.get_node_ip_address()
        yield lambda command, log, environment: Placed(command, log, environment, host), host
    finally:
        engine.close()


class Placed:
    """A process that an actor of Ray has started; what `subprocess.Popen` can do.

    Attributes
    ----------
    machine : name of where it runs.

    Raises
    ------
    RankError : Ray has no room for it.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str], host: str) -> None:
        ray = self._ray = library()
        self._code: int | None = None
        self._actor = ray.remote(_Host).options(num_cpus=1, max_restarts=0).remote()
        try:
            began = self._actor.start.remote(list(command), str(log.resolve()), dict(environment), host, os.getcwd())
            self.machine, has_begun = ray.get(began, timeout=PLACE_S)
            if not has_begun:
                hint = "the project's folder must be seen by all machines under the same name"
                raise RankError(f"`{log.resolve().parent}` is not there on `{self.machine}`", hint=hint)
        except ray.exceptions.GetTimeoutError:
            ray.kill(self._actor)
            cores = ray.cluster_resources().get("CPU", 0)
            raise RankError(
                f"Ray did not start a rank within {PLACE_S:g} s",
                why=f"the cluster has {cores:g} cores, and each rank takes one",
                hint="fewer ranks, or `--on ray://workers=N` for a Ray of this machine",
            ) from None  # fmt: skip

    def poll(self) -> int | None:
        """The exit code; of an actor that is gone with its machine, that of SIGKILL."""
        if self._code is None:
            try:
                self._code = self._ray.get(self._actor.poll.remote(), timeout=ANSWER_S)
            except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError):
                self._code = -signal.SIGKILL
            if self._code is not None:
                self._ray.kill(self._actor)
        return self._code

    def send_signal(self, sig: int, /) -> None:
        """Pass a signal on."""
        if self.poll() is None:
            with contextlib.suppress(self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError):
                self._ray.get(self._actor.send.remote(int(sig)), timeout=ANSWER_S)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        import subprocess

        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("a rank placed by Ray", timeout or 0.0)
            time.sleep(ranks.POLL_S)
        return code


class _Host:
    """The actor: one process, which ends with it."""

    def start(self, command: list[str], log: str, environment: dict[str, str], driver: str, folder: str) -> tuple[str, bool]:
        """The name of this machine, and whether it has begun: it has not where there is no folder for the log."""
        if not Path(log).parent.is_dir():
            return socket.gethostname(), False
        enter_folder(folder)
        here = library().util.get_node_ip_address()
        listen = here if driver != LOOPBACK else LOOPBACK
        given = {"GYRAL_LISTEN": listen, **({IFNAME: name} if (name := interface_of(listen)) else {}), **environment}
        self.process = ranks.start(command, Path(log), given, before=_end_with_parent)
        return socket.gethostname(), True

    def poll(self) -> int | None:
        code: int | None = self.process.poll()
        return code

    def send(self, number: int) -> None:
        self.process.send_signal(number)


def interface_of(address: str) -> str:
    """The network interface that has an IPv4 address; empty where the system does not say."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                told = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(told[20:24]) == address:
                    return name
    return ""


def _end_with_parent() -> None:
    """Linux alone: an actor that is killed takes its process along."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
