"""Fifty versions swapped in under load, each 0.2 s after the last: errors, mixed answers, and latency while one is loaded.

Two workers, the model a matrix of 16 MB that is read from a file and multiplied (0.2 ms a batch); requests are due at fixed
moments, 400 a second, and latency counts from the moment they were due. A request counts as "during a swap" when it was due
between the call of `swap` and its return, as "swapping" when it was due within the two seconds of ten swaps. Every answer
carries a number of its version's own weights, which is compared with the version that it says: one of two versions would not
fit. The pool itself without swaps, in the same run and in turn (ten swaps, then as long without), is one peer; a restart of a
worker for each version, which is what servers without hot swap do, is the other (`drain` under load, five times).

Written before the first run: no errors, nothing mixed; p99 during a swap 1.5 times the one without, as both cores are busy.

    .venv/bin/python benchmarks/serve/swaps.py
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

from gyral.serve.engine import Ask, Part
from gyral.serve.job import Job
from gyral.serve.pool import Settings
from gyral.serve.pooled import pooled

SWAPS, GROUP, EVERY_S, RATE = 50, 10, 0.2, 400
SIDE = 2_048
HERE = Path(__file__).resolve().parent


class Load:
    """Requests that are due at fixed moments, whatever becomes of the ones before."""

    def __init__(self, pool: Any) -> None:
        self.pool, self.is_over, self.id = pool, False, 0
        self.done: list[tuple[float, float, str, int]] = []
        self.task = asyncio.ensure_future(self._go())

    async def _go(self) -> None:
        start, count = time.monotonic(), 0
        while not self.is_over:
            due = start + count / RATE
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
                continue
            count += 1
            self.id += 1
            self.pool.ask(Ask(self.id, "/x", b"", 30.0), lambda part, due=due: self._told(due, part))

    def _told(self, due: float, part: Part) -> None:
        self.done.append((due, time.monotonic(), part.props.get("version", ""), int(part.body) if part.status == 200 else -1))

    async def stop(self) -> None:
        """All that were asked are answered."""
        self.is_over = True
        await self.task
        while self.pool.in_flight:
            await asyncio.sleep(0.01)


def within(done: list[tuple[float, float, str, int]], spans: list[tuple[float, float]]) -> list[float]:
    """Milliseconds of requests that were due in a span."""
    return [(end - due) * 1e3 for due, end, _, _ in done if any(a <= due < b for a, b in spans)]


def told(ms: list[float]) -> dict[str, float]:
    """Percentiles."""
    return {f"p{at}": round(float(np.percentile(ms, at)), 3) for at in (50, 90, 99)} | {"num": len(ms)}


async def measure(source: Path) -> dict[str, Any]:
    """Groups of swaps and of none in turn, then restarts."""
    environment = {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    job = Job(source=str(source), version="m@1", engine="swap_model:make", environment=environment)
    swaps: list[tuple[float, float]] = []
    groups: list[tuple[float, float]] = []
    quiet: list[tuple[float, float]] = []
    restarts: list[tuple[float, float]] = []
    async with pooled(job, Settings(workers=2), note=lambda text: None) as pool:
        load = Load(pool)
        await asyncio.sleep(0.5)
        for number in range(2, SWAPS + 2):
            start = time.monotonic()
            await pool.swap(f"m@{number}")
            swaps.append((start, time.monotonic()))
            await asyncio.sleep(max(0.0, start + EVERY_S - time.monotonic()))
            if (number - 1) % GROUP == 0:
                groups.append((swaps[-GROUP][0], time.monotonic()))
                quiet.append((time.monotonic(), time.monotonic() + GROUP * EVERY_S))
                await asyncio.sleep(GROUP * EVERY_S)
        await load.stop()
        load_again = Load(pool)
        load_again.id = 10_000_000
        for _ in range(5):
            start = time.monotonic()
            await pool.drain(pool.loads()[0].number)
            restarts.append((start, time.monotonic()))
        await load_again.stop()
    during, swapping, without = within(load.done, swaps), within(load.done, groups), within(load.done, quiet)
    restarting = within(load_again.done, restarts)
    mixed = [each for each in [*load.done, *load_again.done] if each[3] >= 0 and each[2] != f"m@{each[3]}"]
    errors = [each for each in [*load.done, *load_again.done] if each[3] < 0]
    found = {
        "during a swap": told(during),
        "swapping": told(swapping),
        "without": told(without),
        "while a worker restarts": told(restarting),
    }
    return {
        "swaps": len(swaps), "requests": len(load.done), "errors": len(errors), "mixed": len(mixed),
        "versions_that_answered": len({each[2] for each in load.done}), "latency_ms": found,
        "swap_ms": told([(b - a) * 1e3 for a, b in swaps]),
        "p99_ratio": round(found["during a swap"]["p99"] / found["without"]["p99"], 3),
        "p99_ratio_swapping": round(found["swapping"]["p99"] / found["without"]["p99"], 3),
        "p50_ratio": round(found["during a swap"]["p50"] / found["without"]["p50"], 3),
    }  # fmt: skip


def main() -> None:
    """Write the versions, measure, say."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, SWAPS + 2):
            np.save(Path(folder) / f"{number}.npy", np.full((SIDE, SIDE), number, np.float32))
        write("serve_swaps", asyncio.run(measure(Path(folder))))


if __name__ == "__main__":
    main()
