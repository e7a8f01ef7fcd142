"""What a step sends, counted outside the code: the loopback counter of a network namespace in which only the ranks live.

    .venv/bin/python benchmarks/train/bytes.py

With P bytes of parameters and W ranks, all ranks together: data 2 (W − 1) P, shard (3 P − R) (W − 1), states 2 (W − 1) P,
tensor by the formula of `gyral.train.parallel.tensor`. Peers: torch's DistributedDataParallel, `fully_shard`,
`parallelize_module`.

Predicted before the first run: data 1.00 to 1.01 of 2 (W − 1) P; shard 1.5 and torch's FSDP2 1.9 of DDP (gloo's reduce-scatter
sends twice); states 1.0; tensor .6 of DTensor, whose columns each send their input's gradient.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, ROOT, write

WORKER = str(Path(__file__).with_name("mesh_worker.py"))
QUIET = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE", "GLOO_SOCKET_IFNAME": "lo"}
LAUNCH = """
import os, subprocess, sys
num, command = int(sys.argv[1]), sys.argv[2:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ranks = [subprocess.Popen(command, env={**os.environ, "RANK": str(r), "WORLD_SIZE": str(num)}) for r in range(num)]
sys.exit(max(abs(rank.wait(timeout=1500)) for rank in ranks))
"""


def figures(num: int, ways: list[str], warm: int, rounds: int) -> dict[str, Any]:
    """Losses, bytes and CPU seconds of each way, by `num` ranks in a namespace of their own."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "-rn", PYTHON, "-c", LAUNCH, str(num), PYTHON, WORKER]
        words = [*command, folder, json.dumps(ways), str(warm), str(rounds)]
        subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, **QUIET}, timeout=1800)
        found: dict[str, Any] = json.loads(Path(folder, "figures.json").read_text())
        return found


def expected(words: str, num: int, parameters: int) -> float:
    """Bytes of the formulas."""
    from mesh_worker import BATCH, LENGTH, SHAPE

    size, outside = 4 * parameters, 4 * (SHAPE.vocab + 1) * SHAPE.width
    if words.startswith("tensor"):
        stream, logits = 4 * BATCH * LENGTH * SHAPE.width, 4 * BATCH * LENGTH * SHAPE.vocab
        return (num - 1) * (2 * 2 * (2 * SHAPE.depth + 1) * stream + logits)
    return (num - 1) * (3 * size - outside if words == f"shard={num}" else 2 * size)


def main() -> None:
    """Count with 2 and with 4 ranks."""
    rows: dict[str, dict[str, float]] = {}
    for num, ways in (
        (2, ["data=2", "shard=2", "shard=2 states", "tensor=2", "torch ddp", "torch fsdp2", "torch dtensor"]),
        (4, ["data=4", "shard=4", "shard=4 states", "data=2,shard=2", "torch ddp", "torch fsdp2"]),
    ):
        found = figures(num, ways, warm=1, rounds=2)
        sent = {words: median(taken["bytes"]) for words, taken in found["ways"].items()}
        for words, size in sent.items():
            row = {"mb_a_step": round(size / 1e6, 3), "of_data": round(size / sent[f"data={num}"], 3)}
            if not words.startswith("torch") and "," not in words:
                row["of_formula"] = round(size / expected(words, num, found["parameters"]), 4)
            rows[f"{num} ranks, {words}"] = row
            print(f"{num} ranks, {words:16} {json.dumps(row)}", file=sys.stderr)
    held = {
        "data <= 1.02 of 2 (W - 1) P": all(rows[f"{n} ranks, data={n}"]["of_formula"] <= 1.02 for n in (2, 4)),
        "shard <= 2 of data": all(rows[f"{n} ranks, shard={n}"]["of_data"] <= 2 for n in (2, 4)),
    }
    write("train_bytes", {"parameters": found["parameters"], "rows": rows, "held": held})
    if not all(held.values()):
        raise SystemExit(f"a limit was missed: {held}")


if __name__ == "__main__":
    main()
