"""Ranks of this machine: processes that belong together, each with its log; when one fails the others are stopped and told why.

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

from gyral.errors import RankError

POLL_S = 0.05
GRACE_S = 5.0
LAST_LINES = 3
QUIET = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}


def launch(
    command: Sequence[str], num: int, folder: Path, environment: Mapping[str, str], on_poll: Callable[[], None] = lambda: None
) -> None:
    """Run `num` processes of this Python until all have ended well.

    Parameters
    ----------
    command : words after the interpreter.
    folder : gets `rank<r>.log` of each.
    environment : added to this one's; `RANK`, `LOCAL_RANK` and `WORLD_SIZE` are set for each.
    on_poll : called some times a second, for progress.

    Raises
    ------
    RankError : one ended otherwise; the others were stopped.
    """
    processes: list[subprocess.Popen[bytes]] = []
    logs = [folder / f"rank{rank}.log" for rank in range(num)]
    try:
        for rank in range(num):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num)}
            with open(logs[rank], "ab") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", *command],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, **QUIET, **environment, **own},
                    )
                )
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


def tail(path: Path, lines: int = LAST_LINES) -> str:
    """Last lines of a log."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""


def _told(failed: Sequence[int], processes: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> RankError:
    rank = next((each for each in failed if "error:" in tail(logs[each], 20)), failed[0])
    code = processes[rank].returncode
    lines = tail(logs[rank], 20).splitlines()
    error = next((line.partition("error: ")[2] for line in lines if line.startswith("error: ")), lines[-1] if lines else "")
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"stopped with code {code}"
    what = f"rank {rank} of {len(processes)} on `{socket.gethostname()}` {how}"
    return RankError(what, why=error, where=str(logs[rank]), hint="the log holds what came before")


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    end = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
