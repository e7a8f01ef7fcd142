"""Steps of a worker while its shard writes cuts: p50 and p99 of pull and push beside the same shard that keeps nothing.

`proc://1`, 1,000,000 rows (dim 32, rowwise Adagrad); a step pulls 8,192 keys (Zipf 1.2), waits 2 ms as a model would compute,
and pushes their gradients. Turns of 10 s, three of each in turn: `kept` cuts every .25 s, so that some part of a cut is written
in nearly every step, and is folded into a base in the middle of a turn; `not kept` has no folder.

Prediction, written before: p50 1.05x, p99 1.5x: a part of a cut takes the shard 3 to 5 ms between two frames, a step 8.

    .venv/bin/python benchmarks/params/snapshot.py
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure
import numpy as np

from gyral.params import client
from gyral.params.deltas import compact
from gyral.params.shard import Settings
from gyral.params.spec import TableSpec

SPEC, KEYS, BATCH, TURN_S, TURNS = TableSpec("items", 32), 1_000_000, 8_192, 10.0, 3


def steps(one: client.Client, batches: list[np.ndarray], grads: np.ndarray, seconds: float) -> list[float]:
    """Seconds of each step, without what the model waits."""
    items, found, until = one.table("items"), [], time.monotonic() + seconds
    while time.monotonic() < until:
        keys = batches[len(found) % len(batches)]
        begun = time.perf_counter()
        items.pull(keys)
        pulled = time.perf_counter()
        time.sleep(0.002)
        pushing = time.perf_counter()
        items.push(keys, grads)
        found.append(time.perf_counter() - pushing + pulled - begun)
    return found


def main() -> None:
    rng = np.random.default_rng(0)
    chance = np.cumsum(1 / np.arange(1, KEYS + 1) ** 1.2)
    batches = [np.searchsorted(chance, rng.random(BATCH) * chance[-1]) for _ in range(16)]
    grads = rng.normal(size=(BATCH, 32)).astype(np.float32)
    found: dict[str, list[float]] = {"kept": [], "not kept": []}
    cuts = 0
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(workers=1, cut_s=0.25)
        with (
            client.open("proc://1", [SPEC], folder=name, settings=settings) as kept,
            client.open("proc://1", [SPEC], settings=settings) as free,
        ):
            for one in (kept, free):
                for first in range(0, KEYS, 100_000):
                    one.table("items").push(np.arange(first, first + 100_000), np.zeros((100_000, 32), np.float32))
                steps(one, batches, grads, 3.0)
            for _ in range(TURNS):
                folding = threading.Timer(TURN_S / 2, compact, [Path(name) / "shard0", 0])
                folding.start()
                found["kept"] += steps(kept, batches, grads, TURN_S)
                folding.join()
                found["not kept"] += steps(free, batches, grads, TURN_S)
            cuts = max(int(path.name[4:20]) for path in (Path(name) / "shard0").glob("cut-*.delta"))
    told = {
        what: {f"p{q}_ms": round(1e3 * float(np.quantile(every, q / 100)), 3) for q in (50, 99)} | {"steps": len(every)}
        for what, every in found.items()
    }
    over = {q: round(told["kept"][q] / told["not kept"][q], 3) for q in ("p50_ms", "p99_ms")}
    measure.write("params_snapshot", {
        "claim": "p99 of a step while snapshots are written <= 1.2x", "rows": KEYS, "batch": BATCH, "cuts": cuts, **told,
        "kept_over_not": over,
    })  # fmt: skip


if __name__ == "__main__":
    main()
