"""A worker process: `python -m gyral.serve.worker job.json` holds the versions of a model and answers one gateway.

One thread reads asks, steps the engine and sends parts; what came while a step ran is the next batch. A version is loaded,
touched and warmed by a thread in the background *of this process*, and put to use between two steps: a process of its own for
it would import everything again (1.3 s and 230 MB of torch) to save a thread that holds the interpreter for parts of a
millisecond at a time. One that takes the process along (a crash in native code) costs the batch in flight, which is asked
again elsewhere, and the pool goes on with the version before. The version of an answer is decided by the order of what is
said: an ask before `Use` is answered by the old one, to its end if it is a stream, one after it by the new.

A worker ends when the gateway does, since the link ends then. SIGTERM tells the gateway, which asks nothing more; SIGINT,
which a terminal sends to everybody, is the gateway's to decide. A pong is sent between two steps, so a step that never ends
is found like a process that was stopped; the longest step must be shorter than the pool's `hang_s`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from socket import socket

import msgspec

from gyral.engine.links import Link, LinkLost
from gyral.engine.listening import connect
from gyral.errors import GyralError
from gyral.memory import few_arenas, resident_bytes
from gyral.serve.engine import Ask, Engine, Part, failed
from gyral.serve.frames import (
    Answered,
    Asked,
    Broken,
    Cancel,
    Drain,
    Forget,
    FromWorker,
    Leaving,
    Load,
    Loaded,
    Ping,
    Pong,
    Talk,
    ToWorker,
    Use,
)
from gyral.serve.job import Job

IDLE_S = 1.0
HIGH_BYTES = 4 << 20
"""Parts that the gateway has not taken: beyond this nothing is computed."""
SWITCH_INTERVAL_S = 0.0005
"""How long a version that is being loaded may hold the interpreter while requests wait; Python's default is 5 ms."""
SEND_S = 30.0
_ELSEWHERE = "GYRAL_ELSEWHERE"
"""Set in the other Python of a job that names one."""

Make = Callable[[str], Engine]
"""Version → an engine that is loaded, touched and warm."""


class _Held:
    """A version in memory, and the asks that it answers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asks: set[int] = set()
        self.is_forgotten = False


class Worker:
    """Answers one gateway until it is drained or the link ends.

    Parameters
    ----------
    make : opens a version.
    note : told what goes wrong.
    """

    def __init__(self, link: Link, make: Make, note: Callable[[str], None] = print) -> None:
        self._talk = Talk(link, list[ToWorker])
        self._make, self._note = make, note
        self._held: dict[str, _Held] = {}
        self._of: dict[int, _Held] = {}
        self._old: list[_Held] = []
        self._using = ""
        self._step_s, self._steps = 0.0, 0
        self._is_draining = self._is_asked_to_end = False
        self._wanted: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[tuple[str, Engine | None, FromWorker]] = queue.SimpleQueue()
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._background = threading.Thread(target=self._work, name="versions", daemon=True)
        self._background.start()

    def run(self, version: str) -> None:
        """Load a version, then serve.

        Raises
        ------
        LinkLost : the gateway has ended.
        GyralError : the version cannot be loaded; the gateway knows.
        """
        engine, told = self._opened(version)
        if engine is None:
            self._talk.say(told)
            self._send_all()
            raise GyralError(f"`{version}` cannot be loaded", why=told.why if isinstance(told, Broken) else "")
        self._held[version], self._using = _Held(engine), version
        self._talk.say(told)
        link, poll, is_watched = self._talk.link, select.poll(), False
        poll.register(self._pipe[0], select.POLLIN)
        poll.register(link, select.POLLIN)
        while not (self._is_draining and not self._of):
            is_behind = self._talk.waiting_bytes > HIGH_BYTES
            if link.is_sending != is_watched:
                is_watched = not is_watched
                poll.modify(link, select.POLLIN | (select.POLLOUT if is_watched else 0))
            for number, event in poll.poll(0 if self._of and not is_behind else IDLE_S * 1000):
                if number == self._pipe[0]:
                    os.read(number, 4096)
                elif event & ~select.POLLOUT:
                    self._hear()
            self._take_made()
            if not is_behind:
                self._step()
            self._talk.flush()
        self._send_all()

    def stop(self) -> None:
        """Ask the gateway to be drained; from a signal or another thread."""
        self._is_asked_to_end = True
        self._wake()

    def close(self) -> None:
        """Let go of all versions."""
        self._wanted.put(None)
        self._background.join(SEND_S)
        for held in [*self._held.values(), *self._old]:
            held.engine.close()
        self._talk.link.close()

    def _hear(self) -> None:
        for each in self._talk.hear():
            if isinstance(each, Asked):
                self._ask(each)
            elif isinstance(each, Cancel):
                for id in each.ids:
                    self._cancel(id)
            else:
                self._told(each)

    def _told(self, message: ToWorker) -> None:
        if isinstance(message, Ping):
            self._talk.say(Pong(message.number, resident_bytes(), self._step_s, self._steps))
        elif isinstance(message, Load):
            version = message.version
            if version in self._held:
                self._talk.say(Loaded(version, 0.0, resident_bytes()))
            else:
                self._wanted.put(lambda: self._load(version))
        elif isinstance(message, Use):
            if message.version in self._held:
                self._using = message.version
        elif isinstance(message, Forget):
            held = self._held.pop(message.version, None) if message.version != self._using else None
            if held is not None:
                held.is_forgotten = True
                self._old.append(held)
                self._end_old()
        elif isinstance(message, Drain):
            self._is_draining = True

    def _ask(self, asked: Asked) -> None:
        held = self._held.get(asked.version or self._using)
        if held is None:
            what, hint = f"version `{asked.version}` is not loaded here", f"`{self._using}` answers"
            self._say(failed(asked.id, 404, what, hint=hint), self._using)
            return
        ask = Ask(asked.id, asked.path, asked.body, _seconds(asked.deadline_s), asked.version, asked.is_stream, asked.variant)
        held.asks.add(ask.id)
        self._of[ask.id] = held
        try:
            held.engine.submit(ask)
        except Exception as error:
            self._broke(held, [ask.id], error)

    def _cancel(self, id: int) -> None:
        held = self._of.pop(id, None)
        if held is not None:
            held.asks.discard(id)
            held.engine.cancel(id)
            self._end_old()

    def _step(self) -> None:
        for held in [*self._held.values(), *self._old]:
            if not held.asks:
                continue
            began = time.perf_counter()
            try:
                parts = held.engine.step()
            except Exception as error:
                self._broke(held, list(held.asks), error)
                continue
            self._step_s += time.perf_counter() - began
            self._steps += 1
            for part in parts:
                if self._of.get(part.id) is not held:
                    continue  # cancelled
                if part.is_last:
                    del self._of[part.id]
                    held.asks.discard(part.id)
                self._say(part, held.engine.version)
        if self._old:
            self._end_old()
        if self._is_asked_to_end:
            self._is_asked_to_end = False
            self._talk.say(Leaving())

    def _broke(self, held: _Held, ids: list[int], error: Exception) -> None:
        """An engine that raises has lost what it was asked."""
        self._note(f"serve    {held.engine.version} failed {len(ids)} asks\n{''.join(traceback.format_exception(error))}")
        for id in ids:
            self._of.pop(id, None)
            held.asks.discard(id)
            with contextlib.suppress(Exception):
                held.engine.cancel(id)
            self._say(failed(id, 500, "the model could not answer", hint="the worker's log says why"), held.engine.version)

    def _say(self, part: Part, version: str) -> None:
        self._talk.say(Answered(part.id, part.status, part.body, part.is_last, version, part.props))

    def _end_old(self) -> None:
        """Versions that are forgotten and have answered; unmapping a large one takes a while, so not here."""
        for held in [each for each in self._old if not each.asks]:
            self._old.remove(held)
            self._wanted.put(held.engine.close)

    def _work(self) -> None:
        """The thread in the background."""
        while (call := self._wanted.get()) is not None:
            try:
                call()
            except Exception as error:
                self._note(f"serve    a version could not be let go: {error}")
            del call  # the last that holds on to a version

    def _load(self, version: str) -> None:
        self._made.put((version, *self._opened(version)))
        self._wake()

    def _opened(self, version: str) -> tuple[Engine | None, FromWorker]:
        began = time.monotonic()
        try:
            engine = self._make(version)
        except GyralError as error:
            return None, Broken(version, error.what, error.where, error.why, error.hint)
        except Exception as error:  # whatever a back end does to a damaged folder
            self._note("".join(traceback.format_exception(error)))
            return None, Broken(version, f"`{version}` cannot be loaded", why=f"{type(error).__name__}: {error}")
        return engine, Loaded(version, round(time.monotonic() - began, 3), resident_bytes())

    def _take_made(self) -> None:
        while not self._made.empty():
            version, engine, told = self._made.get()
            if engine is not None and version not in self._held:
                self._held[version] = _Held(engine)
            self._talk.say(told)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._pipe[1], b"x")

    def _send_all(self) -> None:
        """All that was said, before the end."""
        end = time.monotonic() + SEND_S
        while not self._talk.flush() and time.monotonic() < end:
            select.select([], [self._talk.link], [], 0.1)


def _seconds(value: float | None) -> float:
    return float("inf") if value is None else value


def maker(job: Job) -> Make:
    """What opens versions for a job."""
    module, _, function = job.engine.partition(":")
    opens = getattr(importlib.import_module(module), function)
    return lambda version: opens(job.source, version, job.options)


def _linked(job: Job) -> Link:
    if job.socket >= 0:
        return Link(socket(fileno=job.socket), "the gateway")
    host, _, port = job.address.rpartition(":")
    return connect((host, int(port)), bytes.fromhex(job.secret), job.token.encode(), peer="the gateway")


def _elsewhere(job: Job, path: str) -> None:
    """Go on in another Python, which gets the sources of gyral and nothing else of this one."""
    sources = Path(path).with_suffix(".sources")
    sources.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (sources / "gyral").symlink_to(Path(__file__).resolve().parents[1])
    found = os.pathsep.join(filter(None, [str(sources), job.environment.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": found, _ELSEWHERE: "1"}
    os.execve(job.python, [job.python, "-P", "-m", "gyral.serve.worker", path], environment)


def main() -> int:
    """Exit code of the process."""
    path = sys.argv[1]
    job = msgspec.json.decode(Path(path).read_bytes(), type=Job)
    if job.python and _ELSEWHERE not in os.environ:
        _elsewhere(job, path)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    few_arenas()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        worker = Worker(_linked(job), maker(job), lambda text: print(text, flush=True))
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        worker.run(job.version)
        worker.close()
    except LinkLost:
        return 0  # the gateway has ended
    except GyralError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
