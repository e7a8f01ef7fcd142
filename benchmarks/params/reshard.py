"""How long a worker waits while buckets move under it: 1,000,000 rows of 32 numbers, 2 → 3 → 2 shards, pushes all the while.

    .venv/bin/python benchmarks/params/reshard.py

A worker in a process of its own pushes 2,000 random keys at a time to two shards in processes (`proc://2`, a folder, a cut a
second) and notes how long each push took to be acknowledged: first `still`, as long as the moves will take, then while
`reshard(3)` and `reshard(2)` run. The peer is what one would do without resharding: stop the workers, export all rows, load
them into shards anew (`stop`: read all rows by pulls and push them into a fresh set of three).

At the end the table is compared with what was acknowledged, key for key.

Prediction, written before the first run: p99 while moving 60 ms (a parcel of 4 MB is written twice, 10 to 25 ms each), the
longest 200 ms; all of it 8 s a direction for 100 MB; still p99 15 ms; stop 10 s in which no push is taken.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure
import numpy as np

from gyral.params import client
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec

KEYS, DIM, BATCH = 1_000_000, 32, 2_000
SPEC = TableSpec("items", DIM, Optimizer(name="sgd", rate=1.0), init="zero")
SETTINGS = Settings(workers=1)


def worker(address: str, folder: Path) -> None:
    """Push until the file `stop` is there; write when each push was acknowledged and how long it took."""
    rng, ones = np.random.default_rng(1), np.ones((BATCH, DIM), np.float32)
    pushed, took = np.zeros(KEYS, np.int64), []
    with client.open(address, [SPEC], settings=SETTINGS) as one:
        while not (folder / "stop").exists():
            keys = rng.integers(0, KEYS, BATCH)
            begun = time.time()
            one.table("items").push(keys, ones)
            took.append((begun, time.time() - begun))
            np.add.at(pushed, keys, 1)
            time.sleep(0.005)
        one.flush()
    np.save(folder / "pushed.npy", pushed)
    np.save(folder / "took.npy", np.array(took))


def stopped(looks: Any) -> float:
    """Seconds in which nobody may push: all rows read, and put into three fresh shards."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, client.open("proc://3", [SPEC], folder=name, settings=SETTINGS) as fresh:
        for first in range(0, KEYS, 50_000):
            keys = np.arange(first, first + 50_000)
            fresh.table("items").push(keys, looks.table("items").pull(keys)[0])
        fresh.flush()
        return time.perf_counter() - begun


def figures(took: np.ndarray, since: float, until: float) -> dict[str, float]:
    chosen = 1e3 * took[(took[:, 0] >= since) & (took[:, 0] <= until), 1]
    return {
        "pushes": len(chosen), "p50_ms": round(float(np.median(chosen)), 2),
        "p99_ms": round(float(np.percentile(chosen, 99)), 2), "longest_ms": round(float(chosen.max()), 2),
        "seconds": round(until - since, 2),
    }  # fmt: skip


def main() -> None:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with client.open("proc://2", [SPEC], folder=folder / "server", settings=SETTINGS, worker=-1) as looks:
            with looks.another(1) as filling:
                for first in range(0, KEYS, 50_000):
                    filling.table("items").push(np.arange(first, first + 50_000), np.zeros((50_000, DIM), np.float32))
                filling.flush()
            command = [measure.PYTHON, __file__, "worker", looks.address, name]
            process = subprocess.Popen(command)
            time.sleep(5)
            marks = [time.time()]
            time.sleep(8)
            marks.append(time.time())
            moved = []
            for num in (3, 2):
                moved.append(looks.reshard(num))
                marks.append(time.time())
            time.sleep(1)
            (folder / "stop").touch()
            assert process.wait(60) == 0
            took, pushed = np.load(folder / "took.npy"), np.load(folder / "pushed.npy")
            for what, since, until in zip(("still", "to_3", "to_2"), marks, marks[1:], strict=False):
                result[what] = figures(took, since, until)
            for what, done in zip(("to_3", "to_2"), moved, strict=True):
                result[what] |= {
                    "buckets": done.buckets, "parcels": done.parcels, "mb": round(done.size_bytes / 1e6, 1),
                    "again": done.again, "longest_parcel_ms": round(1e3 * done.longest_s, 1),
                }  # fmt: skip
            rows = np.concatenate(
                [looks.table("items").pull(np.arange(first, first + 50_000))[0][:, 0] for first in range(0, KEYS, 50_000)]
            )
            result["lost_or_doubled"] = int((-rows != pushed).sum())
            result["acknowledged_rows"] = int(pushed.sum())
            result["stop_s"] = round(stopped(looks), 2)
    measure.write("params_reshard", {"rows": KEYS, "dim": DIM, "batch": BATCH, **result})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
