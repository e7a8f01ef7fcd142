"""The learner's process from outside: started, listened to, started again when it dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from gyral.errors import RankError
from gyral.live.learner import Job

START_TIMEOUT_S = 300.0
"""The first time on a machine, kernels are compiled, which takes half a minute."""
FINISH_TIMEOUT_S = 120.0
RESTARTS = 20
"""Deaths of the young in a row after which it is given up."""
YOUNG_S = 10.0
BACKOFF_S = 0.2


class Watched:
    """One learner, whoever kills it.

    Parameters
    ----------
    folder : where its job and what it says on stderr are kept.
    """

    def __init__(self, job: Job, folder: Path, note: Callable[[str], None]) -> None:
        self._path, self._log_path, self._note = folder / "learner.json", folder / "learner.log", note
        self._path.write_bytes(msgspec.json.encode(job))
        self.last: dict[str, Any] = {}
        """What it told last."""
        self.restarts = 0
        self.error: RankError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ending = self._is_stopping = False
        self._ready, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="learner", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            self._stop()
            raise self._failed(f"the learner did not start within {START_TIMEOUT_S:g} s")
        self.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """Of the process that learns just now, 0 between two."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def check(self) -> None:
        """Raises `RankError` where it was given up."""
        if self.error is not None:
            raise self.error

    def finish(self) -> dict[str, Any]:
        """It learns what is in the log, and ends; its last word.

        Raises
        ------
        RankError : it does not end in time, or was given up.
        """
        until = time.monotonic() + FINISH_TIMEOUT_S
        while not self._ended.is_set():
            if time.monotonic() > until:
                raise self._failed(f"the learner did not end within {FINISH_TIMEOUT_S:g} s")
            pipe = self._process.stdin if self._process is not None else None
            if pipe is not None and not self._is_ending:
                try:
                    pipe.write(b"finish\n")
                    pipe.flush()
                    self._is_ending = True
                except (OSError, ValueError):  # its pipe is closed
                    pass  # it died; the next one is told
            self._ended.wait(0.05)
        self.check()
        return self.last

    def _watch(self) -> None:
        try:
            young, began = 0, time.monotonic()
            while self._one() and young < RESTARTS:
                young = young + 1 if time.monotonic() - began < YOUNG_S else 0
                self.restarts += 1
                self._is_ending = False
                self._note(f"live     the learner ended ({self._last_line() or 'killed'}) and is started again")
                time.sleep(BACKOFF_S)
                began = time.monotonic()
            if young >= RESTARTS:
                self.error = self._failed(f"the learner died {RESTARTS} times, each within {YOUNG_S:g} s of its start")
        finally:
            self._ended.set()
            self._ready.set()

    def _one(self) -> bool:
        """Run one process to its end; whether it has to be started again."""
        command = [sys.executable, "-P", "-m", "gyral.live.learner", str(self._path)]
        with open(self._log_path, "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, env=_environment()
            )
        self._process = process
        was_ready = self._ready.is_set()
        for line in process.stdout or ():
            try:
                self.last = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue  # cut off by its end
            self._ready.set()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        if code and not was_ready and not self._ready.is_set():
            self.error = self._failed("the learner could not start")
            return False
        return code != 0 and not self._is_stopping

    def _stop(self) -> None:
        self._is_stopping = True
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._thread.is_alive():
            self._thread.join(15)

    def _failed(self, what: str) -> RankError:
        return RankError(what, why=self._last_line(), where=str(self._log_path))

    def _last_line(self) -> str:
        lines = self._log_path.read_text("utf-8", "replace").splitlines() if self._log_path.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
