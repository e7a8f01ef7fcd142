"""What is done to the system of a soak: kinds of faults in an order that a seed decides, each until all is well again.

Recovered is what the clients and the files say, not what a process says of itself: a request that was begun after the fault
was answered, an event that was sent after it is stored, the learner has published twice since (once may have been on its way).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from soak_ledger import Ledger
from soak_system import WORKERS, System

from gyral.errors import GyralError
from gyral.model.live import places

RECOVERY_S = 60.0
LOOK_S = 0.02
STOPPED_S = (0.5, 3.0)
FULL_S = 2.0
SLOW = 100
"""Half-open connections at once."""
SLOW_S = 4.0
JUMPS_S = (3_600, -3_600, 86_400 * 2)
JUMPED_S = 4.0
AWAY_S = (0.3, 4.0)
"""How long a broker that was killed stays away."""
ROLES = ("gateway", "worker", "collector", "learner", "shard")


class Fault(msgspec.Struct):
    """One line of `faults.jsonl`.

    Attributes
    ----------
    at, harmed_s : when it began, and for how long harm was done (0: at a blow); seconds.
    recovered_s : from the end of the harm until all is well; None where it was not within a minute.
    """

    at: float
    kind: str
    target: str
    harmed_s: float = 0.0
    recovered_s: float | None = None
    note: str = ""


class Marks(NamedTuple):
    """Where things stand when a fault ends."""

    now: float
    published: int


class Faults:
    """Does harm.

    Parameters
    ----------
    kinds : names of `NAMES`, or part of one; all where there are none.
    """

    def __init__(self, system: System, ledger: Ledger, seed: int, kinds: list[str], path: Path) -> None:
        self._system, self._ledger, self._random = system, ledger, random.Random(seed)
        self.done: list[Fault] = []
        self.spares = False
        """Whether nobody is killed from now on, so that processes grow old under all the other faults."""
        self._path = path
        ways: dict[str, Callable[[Fault], Awaitable[None]]] = {f"kill {role}": self._kill for role in ROLES}
        ways |= {f"stop {role}": self._stop for role in ROLES}
        ways |= {"slow clients": self._slow, "roll out": self._roll_out, "roll back": self._roll_back}
        if system.is_mounted:
            ways["disk full"] = self._fill
        ways |= {f"clock {machine}": self._jump for machine in system.clocks}
        if system.broker is not None:
            ways |= {"kill broker": self._kill_broker, "stop broker": self._stop}
        self.ways = {name: way for name, way in ways.items() if not kinds or any(each in name for each in kinds)}
        self._names = self._forever()

    def _forever(self) -> Iterator[str]:
        while True:
            names = list(self.ways)
            self._random.shuffle(names)
            if "roll out" in names and "roll back" in names:  # one after the other
                out, back = sorted((names.index("roll out"), names.index("roll back")))
                names[out], names[back] = "roll out", "roll back"
            yield from names

    async def one(self) -> Fault:
        """The next fault, to the end of its recovery."""
        kind = next(each for each in self._names if not (self.spares and each.startswith("kill")))
        fault = Fault(
            round(self._ledger.now, 3), kind, kind.partition(" ")[2] if kind.startswith(("kill", "stop", "clock")) else ""
        )
        began = time.monotonic()
        await self.ways[kind](fault)
        fault.harmed_s = round(time.monotonic() - began, 3) if fault.harmed_s < 0 else fault.harmed_s
        marks = Marks(self._ledger.now, self.published)
        if kind == "kill gateway" or kind == "kill collector":
            marks = marks._replace(now=fault.at)
        until = time.monotonic() + RECOVERY_S
        while time.monotonic() < until:
            if self._is_well(fault, marks):
                fault.recovered_s = round(self._ledger.now - marks.now, 3)
                break
            await asyncio.sleep(LOOK_S)
        self.done.append(fault)
        with open(self._path, "ab") as file:
            file.write(msgspec.json.encode(fault) + b"\n")
        return fault

    @property
    def published(self) -> int:
        with contextlib.suppress(GyralError, OSError):
            return places.read_published(self._system.place).version
        return 0

    def _is_well(self, fault: Fault, marks: Marks) -> bool:
        ok = self._ledger.last_ok
        asked, live, drained = (ok.get(what, 0.0) > marks.now for what in ("ask", "send live", "send drained"))
        learned = self.published > marks.published + 1
        whole = len(self._system.pids("worker")) >= WORKERS
        if fault.kind in ("roll out", "roll back"):
            return asked and self._ledger.version_seen >= int(fault.target.rpartition("@")[2])
        by_target = {
            "gateway": asked and live,
            "worker": asked and whole,
            "collector": drained,
            "learner": learned,
            "shard": learned,
        }
        return by_target.get(fault.target, asked and live and drained and learned)

    async def _kill(self, fault: Fault) -> None:
        system, role = self._system, fault.target
        if role in system.services:
            self._ledger.goes(role)
            system.services[role].kill()
            await asyncio.to_thread(system.services[role].start)
            self._ledger.comes(role)
            fault.note = fault.note or "started again by the harness"
        elif pids := system.pids(role):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(pids), signal.SIGKILL)

    async def _stop(self, fault: Fault) -> None:
        pids = self._system.pids(fault.target)
        pid, fault.harmed_s = self._random.choice(pids) if pids else 0, round(self._random.uniform(*STOPPED_S), 2)
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(fault.harmed_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def _fill(self, fault: Fault) -> None:
        path, fault.harmed_s = self._system.disk / "filler", FULL_S
        try:
            fault.note = f"{await asyncio.to_thread(_filled, path) >> 20} MiB taken"
            await asyncio.sleep(FULL_S)
        finally:
            path.unlink(missing_ok=True)

    async def _jump(self, fault: Fault) -> None:
        """A machine's clock goes off and comes back; half of the times a process of it starts while it is off."""
        fault.harmed_s, jump_s, kills = -1, self._random.choice(JUMPS_S), self._random.random() < 0.5 and not self.spares
        clock = self._system.clocks[fault.target]
        fault.note = f"{jump_s:+,} s and back" + (", killed meanwhile" if kills else "")
        clock.set(jump_s)
        try:
            await asyncio.sleep(JUMPED_S / 2)
            if kills:
                await self._kill(fault)
            await asyncio.sleep(JUMPED_S / 2)
        finally:
            clock.set(0)

    async def _kill_broker(self, fault: Fault) -> None:
        broker, fault.harmed_s = self._system.broker, -1
        assert broker is not None
        away_s = round(self._random.uniform(*AWAY_S), 2)
        broker.kill()
        await asyncio.sleep(away_s)
        await asyncio.to_thread(broker.start)
        fault.note = f"away for {away_s} s and its start"

    async def _slow(self, fault: Fault) -> None:
        """Connections that send a head and no body, one letter a second, or nothing at all."""
        fault.harmed_s, opened = SLOW_S, []
        for number in range(SLOW):
            service = self._system.services["gateway" if number % 2 else "collector"]
            with contextlib.suppress(OSError):
                opened.append((await asyncio.open_connection("127.0.0.1", service.port))[1])
        head = b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n["
        for number, writer in enumerate(opened):
            if number % 3:
                writer.write(head if number % 3 == 1 else head[:40])
        for _ in range(int(SLOW_S)):
            await asyncio.sleep(1)
            for writer in opened[1::3]:
                writer.write(b" ")
        for writer in opened:
            writer.close()
        fault.note = f"{len(opened)} connections"

    async def _roll_out(self, fault: Fault) -> None:
        fault.target = fault.note = f"soak-live@{await asyncio.to_thread(self._system.roll_out)}"

    async def _roll_back(self, fault: Fault) -> None:
        fault.target = fault.note = f"soak-live@{await asyncio.to_thread(self._system.roll_back)}"


def _filled(path: Path) -> int:
    """Take all space that is left; bytes that were taken."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
        return file.tell()


def recovery(faults: list[Fault]) -> dict[str, Any]:
    """Kind → how often, median and longest seconds of recovery."""
    found: dict[str, Any] = {}
    for kind in sorted({each.kind for each in faults}):
        times = sorted(each.recovered_s for each in faults if each.kind == kind and each.recovered_s is not None)
        of = {"count": sum(each.kind == kind for each in faults), "recovered": len(times)}
        found[kind] = of | {"median_s": round(statistics.median(times), 3), "max_s": times[-1]} if times else of
    return found
