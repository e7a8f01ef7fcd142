"""Ranks of this machine: processes that belong together, each with its log.

`launch`: when one fails the others are stopped and told why. `supervise`: whoever dies is started again, the others go on.

A process of one thread a core is what survives a busy machine: two threads of one process wait for each other at every
operation (2,600 → 260 tokens/s with a neighbour on one core), so ranks get one thread and an OpenMP that does not spin.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from gyral.errors import RankError

POLL_S = 0.05
GRACE_S = 5.0
LAST_LINES = 3
QUIET = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


AGAIN = 75
"""Exit code (`EX_TEMPFAIL`) of a process that another try may help."""
MAX_BACKOFF_S = 5.0
END_S = 15.0
"""From the first process that has ended well to the last; who takes longer hangs."""


class Started(Protocol):
    """A process that was started, here or elsewhere: what `subprocess.Popen` can do."""

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


Start = Callable[[Sequence[str], Path, Mapping[str, str]], Started]
"""Words after the interpreter, file for its output, additions to its environment → the process."""


def start(
    command: Sequence[str], log_path: Path, environment: Mapping[str, str], sockets: Sequence[int] = (),
    before: Callable[[], None] | None = None,
) -> Started:  # fmt: skip
    """Start a process of this Python on this machine; `sockets` are those that it inherits, `before` is called in it first."""
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **QUIET, **environment},
            pass_fds=sockets,
            preexec_fn=before,
        )


start_here = start


def leave() -> NoReturn:
    """End a rank that is done, at once.

    A thread of gloo that lets go of its last tensor needs the interpreter. Where that is being taken down the thread is ended
    in the midst of C++, which aborts the process (−6, "terminate called without an active exception"; seen on a busy machine)
    after all was done and written.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def launch(
    command: Sequence[str], num: int, folder: Path, environment: Mapping[str, str], on_poll: Callable[[], None] = lambda: None,
    start: Start = start,
) -> None:  # fmt: skip
    """Run `num` processes of this Python until all have ended well.

    Parameters
    ----------
    command : words after the interpreter.
    folder : gets `rank<r>.log` of each.
    environment : added to this one's; `RANK`, `LOCAL_RANK` and `WORLD_SIZE` are set for each.
    on_poll : called some times a second, for progress.
    start : starts one, on this machine or another.

    Raises
    ------
    RankError : one ended otherwise; the others were stopped.
    """
    processes: list[Started] = []
    logs = [folder / f"rank{rank}.log" for rank in range(num)]
    try:
        for rank in range(num):
            processes.append(start(command, logs[rank], {**environment, **_place(rank, num)}))
        while True:
            codes = [process.poll() for process in processes]
            failed = [rank for rank, code in enumerate(codes) if code]
            if failed:
                time.sleep(POLL_S)  # the first to fail takes others along; look again for one that tells more
                raise _told([rank for rank, process in enumerate(processes) if process.poll()], processes, logs)
            if all(code == 0 for code in codes):
                return
            on_poll()
            time.sleep(POLL_S)
    finally:
        _stop(processes)


class _Kept:
    """One process that is started again when it dies."""

    def __init__(self, name: str, log: Path, start: Callable[[], Started]) -> None:
        self.name, self.log, self._start = name, log, start
        self.process: Started | None = start()
        self.deaths, self._due = 0, 0.0
        self.has_ended = False

    def look(self, restarts: int, note: Callable[[str], None]) -> None:
        """Start it again when it is time to."""
        if self.process is None:
            if time.monotonic() >= self._due:
                self.process = self._start()
            return
        code = self.process.poll()
        if code is None or self.has_ended:
            return
        if code == 0:
            self.has_ended = True
            return
        self.deaths += 1
        if (code > 0 and code != AGAIN) or self.deaths > restarts:
            often = "" if code != AGAIN and code > 0 else f", {self.deaths} times"
            raise _error(self.name, self.process, code, self.log, often)
        wait_s = min(0.1 * 2 ** (self.deaths - 1), MAX_BACKOFF_S)
        self._due, self.process = time.monotonic() + wait_s, None
        note(f"{self.name} {_how(code)} and is started again (death {self.deaths} of {restarts}): {_last_error(self.log)}")


def supervise(
    command: Sequence[str], num: int, folder: Path, environment: Mapping[str, str], on_poll: Callable[[], None] = lambda: None,
    *, helper: Sequence[str] = (), sockets: Sequence[int] = (), restarts: int = 10,
    note: Callable[[str], None] = lambda _: None, start: Start = start,
) -> None:  # fmt: skip
    """Run `num` processes until one has ended well and the others have followed; who dies before is started again.

    Parameters
    ----------
    command, folder, environment, on_poll, start : as `launch` takes them.
    helper : words of one more process, which gets `helper.log`, is kept alive as well, and is stopped at the end.
    sockets : numbers that the helper inherits.
    restarts : of one process; a death by a signal or with `AGAIN` counts, any other code ends all at once, as it would
        be the same again.
    note : told of each death, with the last line of its log.

    Raises
    ------
    RankError : one died too often, or of an error that another try does not help.
    """
    kept: list[_Kept] = []
    aide: _Kept | None = None
    try:
        if helper:
            log = folder / "helper.log"
            aide = _Kept("the coordinator", log, lambda: start_here(helper, log, environment, sockets))
        for rank in range(num):
            path = folder / f"rank{rank}.log"
            own = {**environment, **_place(rank, num)}
            kept.append(_Kept(f"rank {rank} of {num}", path, lambda path=path, own=own: start(command, path, own)))  # type: ignore[misc]
        end = 0.0
        while not all(each.has_ended for each in kept):
            if aide is not None and not aide.has_ended:
                aide.look(restarts, note)
            for each in kept:
                _settle(each) if end else each.look(restarts, note)
            if not end and any(each.has_ended for each in kept):
                end = time.monotonic() + END_S
            if end and time.monotonic() > end:
                return  # who is left hangs: what the run is for has been written
            on_poll()
            time.sleep(POLL_S)
    finally:
        _stop([each.process for each in [*kept, *filter(None, [aide])] if each.process is not None])


def _settle(kept: _Kept) -> None:
    """After the end nobody is started again."""
    if kept.process is None or kept.process.poll() is not None:
        kept.has_ended = True


def _place(rank: int, num: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num)}


def tail(path: Path, lines: int = LAST_LINES) -> str:
    """Last lines of a log."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""


def _told(failed: Sequence[int], processes: Sequence[Started], logs: Sequence[Path]) -> RankError:
    rank = next((each for each in failed if "error:" in tail(logs[each], 20)), failed[0])
    return _error(f"rank {rank} of {len(processes)}", processes[rank], processes[rank].poll() or 0, logs[rank])


def _error(name: str, process: Started, code: int, log: Path, often: str = "") -> RankError:
    machine = getattr(process, "machine", socket.gethostname())  # of one that was placed elsewhere
    what = f"{name} on `{machine}` {_how(code)}{often}"
    return RankError(what, why=_last_error(log), where=str(log), hint=_last_hint(log))


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"stopped with code {code}"


def _last_hint(log: Path) -> str:
    hints = [line.removeprefix("hint: ") for line in tail(log, 20).splitlines() if line.startswith("hint: ")]
    return hints[-1] if hints else "the log holds what came before"


def _last_error(log: Path) -> str:
    lines = tail(log, 20).splitlines()
    return next((line.partition("error: ")[2] for line in reversed(lines) if line.startswith("error: ")), "".join(lines[-1:]))


def _stop(processes: Sequence[Started]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that was stopped hears nothing else
    end = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
