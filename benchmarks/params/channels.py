"""A pull and a push through each channel beside the same on a table in the process: 65,536 keys of 32 numbers.

    .venv/bin/python benchmarks/params/channels.py

The peer is the table itself (`embedded`), called without a client; beside it one shard in this process (`local`), one behind
shared memory (`proc`) and one behind TCP on loopback (`tcp`, as float32 and as bf16), each with one client. All hold the same
2,000,000 keys (rowwise Adagrad) and take turns with the same keys, uniform and Zipf 1.2. Quoted: embedded's median time over
theirs, in wall time and in CPU time of all processes together; median of `ROUNDS` turns.

Written before measuring: local .97, proc .85 of embedded in wall time, tcp .65, tcp with bf16 .7; in CPU time proc .8, tcp .5.
"""

from __future__ import annotations

import os
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import msgspec
import numpy as np
from measure import write

from gyral.engine import ranks
from gyral.params import client
from gyral.params.serve import Job
from gyral.params.spec import TableSpec
from gyral.params.table import Table

KEYS, DIM, BATCH = int(os.environ.get("KEYS", "2000000")), 32, 65_536
ROUNDS = int(os.environ.get("ROUNDS", "40"))
SPEC = TableSpec("items", DIM)
GOAL = {"proc": 0.8, "tcp": 0.6}


class Place:
    """A table somewhere; `cpu` counts this process and the one that serves."""

    def __init__(self, table: Any, pid: int = 0) -> None:
        self.table, self.pid = table, pid

    def cpu(self) -> float:
        used = time.process_time()
        if self.pid:
            words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            used += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        return used

    def turn(self, keys_K: np.ndarray, grads_KD: np.ndarray) -> tuple[float, float]:
        """Wall seconds of a pull and of a push."""
        begun = time.perf_counter()
        self.table.pull(keys_K)
        middle = time.perf_counter()
        self.table.push(keys_K, grads_KD)
        return middle - begun, time.perf_counter() - middle


def served(folder: Path) -> tuple[str, bytes, Any]:
    """A shard behind TCP, in a process of its own."""
    secret = secrets.token_bytes(32)
    (folder / "secret").write_bytes(secret)
    job = Job(0, 1, [SPEC], "127.0.0.1:0", secret=str(folder / "secret"), parent=os.getpid())
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    process = ranks.start(["-m", "gyral.params.serve", str(folder / "job.json")], folder / "log", {})
    while "serves at" not in (said := (folder / "log").read_text()):
        time.sleep(0.05)
    return f"tcp://127.0.0.1:{int(said.rpartition(':')[2])}", secret, process


def zipf(rng: np.random.Generator) -> np.ndarray:
    weights = np.arange(1, KEYS + 1, dtype=np.float64) ** -1.2
    ranks_K = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(BATCH))
    return (ranks_K * 7_919 % KEYS).astype(np.int64)


def main() -> None:
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(BATCH, DIM)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        address, secret, process = served(Path(name))
        near, apart = client.open("local://1", [SPEC]), client.open("proc://1", [SPEC])
        far = client.open(address, [SPEC], secret=secret)
        small = client.open(address, [SPEC], secret=secret, worker=1, coding="bf16")
        places = {
            "embedded": Place(Table(SPEC)),
            "local": Place(near.table("items")),
            "proc": Place(apart.table("items"), apart._transport.processes[0].pid),  # type: ignore[attr-defined]
            "tcp": Place(far.table("items"), process.pid),
            "tcp_bf16": Place(small.table("items"), process.pid),
        }
        for first in range(0, KEYS, BATCH):
            keys = np.arange(first, min(first + BATCH, KEYS))
            for place in [each for each in places if each != "tcp_bf16"]:
                places[place].table.push(keys, grads[: len(keys)])
        result: dict[str, Any] = {}
        for spread, draw in (("uniform", lambda: rng.integers(0, KEYS, BATCH)), ("zipf", lambda: zipf(rng))):
            pulls: dict[str, list[float]] = {place: [] for place in places}
            pushes: dict[str, list[float]] = {place: [] for place in places}
            cpu: dict[str, float] = dict.fromkeys(places, 0.0)
            for number in range(ROUNDS + 3):
                keys = draw()
                for place, at in places.items():
                    before = at.cpu()
                    pull_s, push_s = at.turn(keys, grads)
                    if number >= 3:
                        pulls[place].append(pull_s)
                        pushes[place].append(push_s)
                        cpu[place] += at.cpu() - before
            both = {
                place: statistics.median(a + b for a, b in zip(pulls[place], pushes[place], strict=True)) for place in places
            }
            result[spread] = {
                place: {
                    "of_embedded": round(both["embedded"] / both[place], 3),
                    "of_embedded_cpu": round(cpu["embedded"] / cpu[place], 3),
                    "mrows_per_s": round(BATCH / both[place] / 1e6, 2),
                    "pull_ms": round(1e3 * statistics.median(pulls[place]), 2),
                    "push_ms": round(1e3 * statistics.median(pushes[place]), 2),
                }
                for place in places
            }
        one = np.zeros(1, np.int64)
        result["one_key_us"] = {place: round(1e6 * _least(at.table, one), 1) for place, at in places.items()}
        for each in (small, far, apart, near):
            each.close()
        process.terminate()
        process.wait(10)
    write("params_channels", {"goal": GOAL, "keys": KEYS, "batch": BATCH, "dim": DIM, "rounds": ROUNDS, **result})


def _least(table: Any, keys_K: np.ndarray) -> float:
    """Seconds of a pull of one key: median of many."""
    times = []
    for _ in range(500):
        begun = time.perf_counter()
        table.pull(keys_K)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


if __name__ == "__main__":
    main()
