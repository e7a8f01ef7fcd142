"""Ray behind the engine's seam against plain Ray Core tasks and the local engine: 200 slices of a table through one kernel.

A table of 2 M rows (50 MB) is cut into 200 batches, as a reader that keeps its file in memory does; each goes through the
kernel that matches returns, and comes back with a column more. Plain Ray is what its guide says: put the function into a task,
call it with each batch, get the results, at most four in flight. The same two workers, started before the clock; CPU seconds
are those of all processes (driver, workers and Ray's own) by the system's accounting, results are compared with `local`.
Command: .venv/bin/python benchmarks/engine/ray.py (about three minutes)
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, write

ROUNDS, BATCHES, ROWS = 3, 200, 10_000

COMMON = """
import json, os, sys, time
from collections import deque
from pathlib import Path
import numpy as np
import pyarrow as pa
from gyral.engine.base import connect
BATCHES, ROWS, ITEMS = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
n = BATCHES * ROWS
whole = pa.record_batch({"pair": np.sort(rng.integers(0, n // 4, n)), "units": rng.integers(1, 9, n).astype(float),
    "time": np.arange(n), "is_return": rng.random(n) < 0.1})
batches = [whole.slice(at * ROWS, ROWS) for at in range(ITEMS)]

def work(batch):
    from gyral.curate.returns_kernel import undo
    left = undo(*(batch.column(name).to_numpy(zero_copy_only=False) for name in ("pair", "units", "is_return")))
    return batch.append_column("left", pa.array(left))

def tree():
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(words[1]), []).append((int(path.parent.name), int(words[11]) + int(words[12])))
    look, ticks = [os.getpid()], sum(cpu for every in children.values() for pid, cpu in every if pid == os.getpid())
    while look:
        for pid, cpu in children.get(look.pop(), []):
            look.append(pid)
            ticks += cpu
    return ticks / os.sysconf("SC_CLK_TCK")

def measure(run):
    list(run(batches[:8]))  # workers are up, the kernel is loaded
    cpu, wall = tree(), time.perf_counter()
    total = sum(float(np.nansum(batch.column("left").to_numpy())) for batch in run(batches))
    wall = time.perf_counter() - wall
    time.sleep(1)  # what Ray's processes do a moment later
    print(json.dumps({"wall_s": wall, "cpu_s": tree() - cpu, "total": total}))
"""
GYRAL = "\nengine = connect({on!r})\nmeasure(lambda items: engine.map(work, items))\nengine.close()\n"
PLAIN = """
engine = connect("ray://workers=2")  # for the same start on the loopback address; the tasks are Ray's own
import ray
task = ray.remote(work)
def plain(items):
    waiting = deque()
    for item in items:
        waiting.append(task.remote(item))
        if len(waiting) >= 4:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())
measure(plain)
engine.close()
"""
CASES = {
    "local": COMMON + GYRAL.format(on="local://threads=2"),
    "gyral_ray": COMMON + GYRAL.format(on="ray://workers=2"),
    "plain_ray": COMMON + PLAIN,
}


def once(name: str, items: int) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [PYTHON, "-c", CASES[name], str(BATCHES), str(ROWS), str(items)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    # Plain Ray sends the whole table with each batch, so it gets fewer of them; figures are given per batch.
    items = {"local": BATCHES, "gyral_ray": BATCHES, "plain_ray": 20}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name in CASES:
            found[name].append(once(name, items[name]))
    if {run["total"] for run in found["local"]} != {run["total"] for run in found["gyral_ray"]}:
        raise SystemExit("the engines do not agree")
    result = {
        name: {
            f"{figure[:-2]}_ms_a_batch": round(1e3 * statistics.median(run[figure] for run in runs) / items[name], 3)
            for figure in ("wall_s", "cpu_s")
        }
        for name, runs in found.items()
    }
    write("engine_ray", {"rows_a_batch": ROWS, "rounds": ROUNDS, "results": result, "raw": found})


if __name__ == "__main__":
    main()
