"""A shard is killed (SIGKILL): how long until a worker's next pull is answered, against the time to read the shard's files.

    .venv/bin/python benchmarks/params/restart.py [ROUNDS]

The whole way, from outside: `proc://1` with 2,000,000 rows (dim 32, rowwise Adagrad) in a folded base and cuts after it, a
worker that has pushed more than is durable, a kill; the time to its next answer holds the watcher's look (50 ms), the spare's
taking over (`start`), reading and folding the log into the table (`recover`), and the worker's pushes sent again. `read` reads
the same files and no more (warm: the kill leaves them in memory). Then every row is compared.

`benchmarks/params/recovery.py` measures the recovery alone; this is what a worker sees.

Prediction, written before the first run: read .1 s, recover 3x read, start 2 s; in all 2.5 s, far over 2x read, and all of that
Python's start, which does not grow with the table.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure
import numpy as np

from gyral.params import client
from gyral.params.deltas import compact
from gyral.params.shard import Settings
from gyral.params.spec import TableSpec

SPEC, KEYS = TableSpec("items", 32), 2_000_000
SPARE_S = 6.0
"""Between two deaths: until a new spare is there. One that comes sooner waits for a new Python (1.4 s in all)."""


def read(folder: Path) -> tuple[float, int]:
    """Seconds, and bytes."""
    held, size, begun = bytearray(8 << 20), 0, time.perf_counter()
    for path in sorted(folder.glob("*.delta")):
        with open(path, "rb", buffering=0) as file:
            while num := file.readinto(held):
                size += num
    return time.perf_counter() - begun, size


def main(rounds: int) -> None:
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"read_s": [], "recover_s": [], "answer_s": []}
    lost, again = 0, 0
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(workers=1, cut_s=0.5)
        with client.open("proc://1", [SPEC], folder=name, settings=settings) as one:
            items = one.table("items")
            for first in range(0, KEYS, 100_000):
                items.push(np.arange(first, first + 100_000), rng.normal(size=(100_000, 32)).astype(np.float32))
            one.flush()
            compact(Path(name) / "shard0", keep_s=0)
            for _ in range(rounds):
                for _ in range(5):
                    items.push(rng.integers(0, KEYS, 25_000), rng.normal(size=(25_000, 32)).astype(np.float32))
                time.sleep(SPARE_S)
                expected = [items.pull(np.arange(first, first + 100_000))[0] for first in range(0, KEYS, 100_000)]
                os.kill(one.transport.processes[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
                begun = time.perf_counter()
                items.pull(np.zeros(1, np.int64))
                found["answer_s"].append(time.perf_counter() - begun)
                stats = one.stats()
                found["recover_s"].append(stats["shards"][0]["recovered_s"])
                seconds, size = read(Path(name) / "shard0")
                found["read_s"].append(seconds)
                again = stats["pushes_sent_again"]
                for at, rows in enumerate(expected):
                    lost += int((items.pull(np.arange(at * 100_000, (at + 1) * 100_000))[0] != rows).any(axis=1).sum())
    middle = {what: round(statistics.median(every), 4) for what, every in found.items()}
    measure.write("params_restart", {
        "claim": "serving again <= 2x the time to read the files, nothing lost", "rows": KEYS, "bytes": size, **middle,
        "recover_over_read": round(middle["recover_s"] / middle["read_s"], 2),
        "answer_over_read": round(middle["answer_s"] / middle["read_s"], 2),
        "start_s": round(middle["answer_s"] - middle["recover_s"], 2), "lost_or_other_rows": lost,
        "pushes_sent_again": again, "rounds": rounds,
        "all": {what: [round(each, 4) for each in every] for what, every in found.items()},
    })  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
