"""Which version the workers answer with: loaded in the background everywhere, then put to use everywhere in one turn.

A version is loaded by one worker alone at first: one that takes its process along costs one worker for a moment and not all
of them; then by half of them at a time, and asks go to the other half, where no thread that loads is in their way. Only when
every worker has it warm does any use it; then each is told in one turn of the loop, so asks that are sent after that are
answered by the new version, and those sent before by the old, streams to their end. The version before stays in memory, so
that rolling back is one word; what was before that is forgotten. A version that cannot be loaded changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gyral.errors import ServeError
from gyral.files import write_atomic
from gyral.serve.carrier import Carrier, State
from gyral.serve.frames import Broken, Forget, FromWorker, Load, Loaded, Use


class Kept(msgspec.Struct):
    """What a restarted gateway goes on with."""

    version: str
    previous: str = ""


class Versions:
    """The versions of one pool.

    Parameters
    ----------
    version : to begin with, unless the file names another.
    carriers : those that are ready now.
    path : where the version in use is kept over restarts of the gateway.
    """

    def __init__(self, version: str, carriers: Callable[[], Sequence[Carrier]], path: Path | None, load_s: float) -> None:
        self.current, self.previous = version, ""
        self._carriers, self._path, self._load_s = carriers, path, load_s
        self._loading: dict[tuple[Carrier, str], asyncio.Future[None]] = {}
        self._one_at_a_time = asyncio.Lock()
        if path is not None and path.exists():
            try:
                kept = msgspec.json.decode(path.read_bytes(), type=Kept)
            except msgspec.DecodeError as error:
                raise ServeError("the version in use is not known", where=str(path), why=str(error), hint="remove it") from None
            self.current, self.previous = kept.version, kept.previous

    async def swap(self, version: str) -> None:
        """Have a version answer everywhere; returns once it does.

        Raises
        ------
        ServeError : it cannot be loaded; the one before goes on answering.
        """
        async with self._one_at_a_time:
            if version == self.current:
                return
            try:
                wave = 1
                while lacking := [each for each in self._carriers() if version not in each.versions]:
                    await asyncio.gather(*(self._load(each, version) for each in lacking[:wave]))
                    wave = max(1, len(self._carriers()) // 2)
                if not self._carriers():
                    raise ServeError(f"`{version}` was loaded by nobody", why="no worker is ready", hint="try again")
            except ServeError:
                if version != self.previous:
                    self._forget({self.current, self.previous})
                raise
            self.current, self.previous = version, self.current
            for carrier in self._carriers():
                carrier.using = version
                carrier.say(Use(version))
            self._forget({self.current, self.previous})
            if self._path is not None:
                write_atomic(self._path, msgspec.json.encode(Kept(self.current, self.previous)))

    async def roll_back(self) -> None:
        """Have the version before answer again.

        Raises
        ------
        ServeError : there is none, or it cannot be loaded any more.
        """
        if not self.previous:
            raise ServeError("there is no version to go back to", why=f"`{self.current}` is the first of this pool")
        await self.swap(self.previous)

    async def join(self, carrier: Carrier) -> None:
        """Bring a worker that has just started to the version in use, which may have changed meanwhile, and have it asked.

        Raises
        ------
        ServeError : it cannot load it.
        """
        while carrier.state is State.STARTING:
            if carrier.using == self.current:
                carrier.state = State.READY
                return
            version = self.current
            await self._load(carrier, version)
            carrier.using = version
            carrier.say(Use(version))

    def heard(self, carrier: Carrier, said: Sequence[FromWorker]) -> None:
        """Note what a worker says of versions."""
        for each in said:
            if isinstance(each, Loaded | Broken):
                future = self._loading.get((carrier, each.version))
                if future is None or future.done():
                    if carrier.state is not State.STARTING:
                        self._forget({self.current, self.previous})  # it came too late
                elif isinstance(each, Loaded):
                    future.set_result(None)
                else:
                    future.set_exception(ServeError(each.what, where=each.where, why=each.why, hint=each.hint))

    def lost(self, carrier: Carrier) -> None:
        """A worker has ended: it loads nothing more."""
        for (each, version), future in self._loading.items():
            if each is carrier and not future.done():
                what = f"worker {carrier.number} ended while it loaded `{version}`"
                future.set_exception(ServeError(what, where=str(carrier.running.log), hint="its log may say why"))

    async def _load(self, carrier: Carrier, version: str) -> None:
        if version in carrier.versions:
            return
        key = (carrier, version)
        future = self._loading[key] = asyncio.get_running_loop().create_future()
        try:
            carrier.num_loading += 1
            if carrier.state is State.DOWN:
                self.lost(carrier)
            carrier.say(Load(version))
            await asyncio.wait_for(future, self._load_s)
        except TimeoutError:
            why = f"worker {carrier.number} has not loaded it in {self._load_s:g} s"
            raise ServeError(f"`{version}` is not answering", why=why, where=str(carrier.running.log)) from None
        finally:
            carrier.num_loading -= 1
            del self._loading[key]
            with contextlib.suppress(asyncio.CancelledError):
                if future.done():
                    future.exception()  # seen

    def _forget(self, kept: set[str]) -> None:
        for carrier in self._carriers():
            for version in carrier.versions - kept:
                carrier.versions.discard(version)
                carrier.say(Forget(version))
