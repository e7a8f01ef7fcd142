"""Is memory flat? The system of a soak under steady traffic, with no fault, and how fast each of its processes grows.

The first `--warm` seconds of traffic are not looked at: kernels are loaded after a megabyte of events, and a merge of the lake
is as large as it gets when 125,000 rows have come. After that resident bytes are a line through means of five seconds, with its
95 % interval. Told beside it is how many events, subjects and objects came: an event's id takes 18 bytes for ever in whoever
takes events (`ingest.dedup`), and a live model grows with the others.

    .venv/bin/python benchmarks/loop/memory.py [--minutes 10] [--warm 300] [--rate 8] [--workers 2]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import soak_system
from measure import write
from soak import Traffic, fold, watch
from soak_judged import slopes
from soak_ledger import Ledger
from soak_system import System

from gyral.progress import Screen
from gyral.run import Run

DISK_BYTES = 4 << 30
FLUSH_S = 60.0


async def grow(system: System, ledger: Ledger, run: Run, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Traffic for so long; what each process held, a second."""
    traffic, samples = Traffic(system, ledger, options.rate), []  # type: ignore[var-annotated]
    coming = asyncio.create_task(traffic.run())
    beside = [asyncio.create_task(watch(system, ledger, run, samples)), asyncio.create_task(fold(system, run))]
    try:
        await asyncio.wait([coming], timeout=options.warm + 60 * options.minutes)
        traffic.is_over = True
        await asyncio.wait_for(coming, FLUSH_S)
    finally:
        for task in (*beside, coming):
            task.cancel()
        await asyncio.gather(*beside, coming, return_exceptions=True)
    return samples


def one(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run in a folder: slopes after the warm-up, and the bytes at its end."""
    loads = [os.getloadavg()[0]]
    soak_system.WORKERS = options.workers
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(Run.start(folder, "bench", System.settings(folder), screen=Screen(), seed=0))
        system = System(folder, DISK_BYTES, False, run.note)
        stack.callback(system.close)
        system.start()
        ledger = Ledger(run.folder / "ledger.jsonl")
        stack.callback(ledger.close)
        samples = asyncio.run(grow(system, ledger, run, options))
        told = system.stop()["learner"]
        growth = slopes(samples, "rss_bytes", options.warm)
    last = {pid: each["rss_bytes"] for found in samples[-1]["roles"].values() for pid, each in found.items()}
    return {
        "minutes": options.minutes, "warm_s": options.warm, "rate": options.rate, "workers": options.workers,
        "events": told["seen"], "subjects": told["subjects"], "objects": told["objects"], "steps": told["steps"],
        "growth": [{**each, "rss_bytes": last.get(each["pid"])} for each in growth],
        "mb_a_minute": {
            f"{each['role']} {each['pid']}": [round(60 * each[name] / 1e6, 3) for name in ("low", "per_s", "high")]
            for each in growth
        },
        "load_average": [*loads, os.getloadavg()[0]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warm", type=float, default=300.0, help="seconds of traffic that are not looked at")
    parser.add_argument("--rate", type=float, default=8.0, help="visits a second to each collector; one has some 20 events")
    parser.add_argument("--workers", type=int, default=2, help="of the server; 0: it answers by itself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gyral-memory-") as folder:
        result = one(Path(folder), options)
    write("loop_memory", result)


if __name__ == "__main__":
    main()
