"""How soon an event is in what is served: from a worker's push to another process that reads it, at 100,000 rows a second.

Five processes: a worker that pushes (1,000 different rows of a million every 10 ms, dim 32, rowwise Adagrad), the shard that
applies and writes cuts (`proc://1`), a follower that keeps the replica, one that folds the log every 8 s, and a reader that
looks up 256 rows every 2 ms. One key is in every push, and its weight says how many of them the reader sees: each push is an
event, and each is timed from the call of `push` until the reader has it. CPU is each process's own, by the system's
accounting.

Peer: what one does without a delta log, in the same run: `torch.save` of the table's weights and `torch.load` by another.

Prediction, written before the first run: with a cut every 0.25 s p50 0.25 s and p99 0.6 s; CPU a second of stream: shard 0.5
s, follower 0.15 s, reader 0.15 s; on disk 1.1x the rows' own bytes. The goal is p99 ≤ 1 s. The peer needs about 1 s a refresh
of this small table and its time grows with the table, not with what changed.

    .venv/bin/python benchmarks/params/freshness.py [SECONDS]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure

from gyral.params.spec import TableSpec

SPEC = TableSpec("items", 32)
ROWS, EVERY_S, KEYS, CUT_S, PROBE = 1_000, 0.01, 1_000_000, 0.25, -1


def worker(folder: Path, seconds: float) -> None:
    from gyral.params import client
    from gyral.params.shard import Settings

    rng = np.random.default_rng(0)
    with client.open("proc://1", [SPEC], folder=folder / "server", settings=Settings(cut_s=CUT_S)) as server:
        table = server.table("items")
        grads = rng.normal(0, 0.1, (ROWS, SPEC.dim)).astype(np.float32)
        grads[0] = -1
        for start in range(0, KEYS, 50_000):  # a table that is there already
            table.push(np.arange(start, start + 50_000), np.full((50_000, SPEC.dim), 0.01, np.float32), 1)
        server.flush()
        begun, before = time.time(), resource.getrusage(resource.RUSAGE_SELF)
        (folder / "begun").write_text("")
        times = []
        for number in range(int(seconds / EVERY_S)):
            time.sleep(max(0.0, begun + number * EVERY_S - time.time()))
            keys = rng.integers(0, KEYS, ROWS)
            keys[0] = PROBE
            called = time.time()
            table.push(keys, grads, 1)
            times.append((called, time.time()))
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.time()
        stats = server.stats()
    shard = resource.getrusage(resource.RUSAGE_CHILDREN)
    np.save(folder / "times.npy", times)
    print(json.dumps({
        "seconds": ended - begun, "rows": len(times) * ROWS, "stats": str(stats)[:2000],
        "cpu_s": {"worker": used(after) - used(before), "shard with the first load": used(shard)},
    }))  # fmt: skip


def follower(folder: Path) -> None:
    from gyral.params.chain import Folder
    from gyral.params.follow import Follower
    from gyral.params.replica import Writer

    stop, size = threading.Event(), 0
    with Writer(Path("/dev/shm") / folder.name / "items", SPEC) as writer:
        following = Follower(Folder(folder / "server" / "shard0"), {"items": writer})
        while not (folder / "begun").exists():
            following.poll()
            stop.wait(0.02)
        before, seen = used(resource.getrusage(resource.RUSAGE_SELF)), following.found.segments
        while not (folder / "done").exists():
            following.poll()
            stop.wait(0.02)
        found, size = following.found, writer.nbytes
    cpu = used(resource.getrusage(resource.RUSAGE_SELF)) - before
    print(
        json.dumps({"cpu_s": cpu, "segments": found.segments - seen, "found": vars(found), "bytes_a_row": size / len(writer)})
    )


def compactor(folder: Path) -> None:
    from gyral.params.deltas import compact

    bases, begun, before = 0, 0.0, 0.0
    while not (folder / "done").exists():
        if (folder / "begun").exists() and not begun:
            begun, before = time.time(), used(resource.getrusage(resource.RUSAGE_SELF))
        if begun and time.time() - begun > 8 * (bases + 1):
            compact(folder / "server" / "shard0", keep_s=600)
            bases += 1
        time.sleep(0.1)
    print(json.dumps({"cpu_s": used(resource.getrusage(resource.RUSAGE_SELF)) - before, "bases": bases,
                      "peak_bytes": measure.own_peak_bytes()}))  # fmt: skip


def reader(folder: Path, seconds: float) -> None:
    from gyral.params.replica import Replica
    from gyral.params.table import Table

    local, values = Table(SPEC), []
    for _ in range(int(seconds / EVERY_S)):
        local.push(np.array([PROBE]), np.full((1, SPEC.dim), -1, np.float32), 1)
        values.append(float(local.pull(np.array([PROBE]))[0][0, 0]))
    assert (np.diff(values) > 0).all()
    while not (folder / "begun").exists():
        time.sleep(0.01)
    replica = Replica(Path("/dev/shm") / folder.name / "items")
    rng, visible, count, spent = np.random.default_rng(1), np.zeros(len(values)), 0, 0.0
    before, end = used(resource.getrusage(resource.RUSAGE_SELF)), time.time() + seconds + 20
    lookups = 0
    while count < len(values) and time.time() < end:
        keys = rng.integers(0, KEYS, 256)
        keys[0] = PROBE
        start = time.perf_counter()
        rows, held = replica.lookup(keys)
        spent += time.perf_counter() - start
        lookups += 1
        seen = int(np.searchsorted(values, rows[0, 0], side="right")) if held[0] else 0
        visible[count:seen], count = time.time(), max(count, seen)
        time.sleep(0.002)
    np.save(folder / "visible.npy", visible)
    cpu = used(resource.getrusage(resource.RUSAGE_SELF)) - before
    fresh = replica.freshness()
    print(json.dumps({"cpu_s": cpu, "seen": count, "us_a_lookup_of_256": spent / lookups * 1e6, "own": fresh._asdict()}))


def peer() -> dict[str, float]:
    """Seconds of one refresh by a file of all weights."""
    import torch

    weights = torch.randn(KEYS, SPEC.dim)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with open(Path(folder, "weights.pt"), "wb") as file:
            torch.save({"weights": weights, "keys": torch.arange(KEYS)}, file)
            file.flush()
            os.fsync(file.fileno())
        saved = time.perf_counter()
        torch.load(Path(folder, "weights.pt"), weights_only=True)["weights"].clone()
        return {"save_s": saved - start, "load_s": time.perf_counter() - saved, "keys": KEYS}


def used(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="freshness") as name:
        folder = Path(name)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
        begun = {
            what: subprocess.Popen(
                [measure.PYTHON, __file__, what, name, str(seconds)], stdout=subprocess.PIPE, text=True, env=environment
            )
            for what in ("worker", "follower", "compactor", "reader")
        }
        outs = {}
        try:
            for what in ("worker", "reader", "follower", "compactor"):
                if what == "follower":
                    (folder / "done").write_text("")
                outs[what] = json.loads(begun[what].communicate(timeout=seconds + 180)[0].splitlines()[-1])
        finally:
            for each in begun.values():
                each.kill()
            subprocess.run(["rm", "-rf", f"/dev/shm/{folder.name}"], check=False)
        times, visible = np.load(folder / "times.npy"), np.load(folder / "visible.npy")
        lags = (visible - times[:, 0])[visible > 0]
        cuts = [path.stat().st_size for path in (folder / "server" / "shard0").glob("cut-*")]
        bases = [path.stat().st_size for path in (folder / "server" / "shard0").glob("base-*")]
    raw = 8 + 4 + SPEC.body_bytes
    result = {
        "claim": "event to visible p99 <= 1 s at 100,000 dirty rows/s", "cut_s": CUT_S,
        "rows_per_s": outs["worker"]["rows"] / outs["worker"]["seconds"],
        "event_to_visible_s": {f"p{share}": float(np.percentile(lags, share)) for share in (1, 50, 90, 99, 100)},
        "events": len(times), "never_seen": int((visible == 0).sum()),
        "acknowledged_s": {f"p{share}": float(np.percentile(times[:, 1] - times[:, 0], share)) for share in (50, 99)},
        "disk": {"cut_bytes": sum(cuts), "cuts": len(cuts), "base_bytes": sum(bases),
                 "cut_bytes_over_rows": sum(cuts) / ((outs["worker"]["rows"] + KEYS) * raw),
                 "base_over_rows": sum(bases) / (KEYS * raw)},
        "processes": outs, "peer": peer(),
    }  # fmt: skip
    measure.write("params_freshness", result)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        given = {"worker": (float(sys.argv[3]),), "reader": (float(sys.argv[3]),)}.get(sys.argv[1], ())
        globals()[sys.argv[1]](Path(sys.argv[2]), *given)
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
