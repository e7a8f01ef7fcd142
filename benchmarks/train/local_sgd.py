"""What ranks that rarely meet send and learn, beside all-reduce: bytes counted by the loopback of a network namespace.

    .venv/bin/python benchmarks/train/local_sgd.py [STEPS]

Two ranks, .8 M parameters, characters of English documentation (`benchmarks/curate/prose.py`), the same rows in each way, one
thread a rank; held-out loss in nats a byte after STEPS (2,000). `data` is all-reduce each step; both columns compare to it.

Predicted before the first run: int8 at 25 steps 1/98 of the bytes (a quarter of f32, a 25th of the times, scales .4 %), and a
loss within 2 %; at 10 steps 1/39 and within 1 %; gradients in int8 a quarter of the bytes and within .2 %.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "curate"))
from measure import PYTHON, ROOT, write

WAYS: dict[str, dict[str, Any]] = {
    "data": {},
    "data, int8 gradients": {"wire": "int8"},
    "meet every 10, int8": {"outer": {"every": 10}},
    "meet every 25, int8": {"outer": {"every": 25}},
    "meet every 25, int8, 4 fragments": {"outer": {"every": 25, "fragments": 4}},
    "average every 25, int8": {"outer": {"every": 25, "rate": 1.0, "momentum": 0.0}},
    "DiLoCo's .7 and .9 at once, every 25": {"outer": {"every": 25, "ramp": 0}},
}
QUIET = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE", "GLOO_SOCKET_IFNAME": "lo"}
LAUNCH = """
import os, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ranks = [subprocess.Popen(sys.argv[1:], env={**os.environ, "RANK": str(r), "WORLD_SIZE": "2"}) for r in range(2)]
sys.exit(max(abs(rank.wait(timeout=3000)) for rank in ranks))
"""


def text() -> bytes:
    """1.1 MB of English."""
    import pyarrow.parquet as pq
    from prose import prose

    rows = pq.read_table(prose()).to_pylist()
    return "\n".join(row["text"] for row in rows if row["language"] == "en").encode()[:1_100_000]


def rank(folder: str, steps: int) -> None:
    """Every way in turn, by one of two ranks."""
    from datetime import timedelta

    import msgspec
    import torch
    import torch.distributed as dist

    from gyral.config.training import Optim, Train
    from gyral.model.nets.llama import Shape
    from gyral.model.tasks.next_token import NextToken, Text
    from gyral.train import loop
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer
    from gyral.train.parallel.mesh import strategy_of

    torch.set_num_threads(1)
    number = int(os.environ["RANK"])
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=number, world_size=2, timeout=timedelta(seconds=300))
    body = Path(folder, "text").read_bytes()
    cut = len(body) * 9 // 10
    task = NextToken(Shape(257, 128, 4, 4, 4, 352), 64, Text([body[:cut]]), Text([body[cut:]]), is_masked=False)
    found = {}
    for name, words in WAYS.items():
        train = msgspec.convert({"batch": 12, **words}, Train)
        strategy = strategy_of({"data": 2}, train)
        model = strategy.place(task, task.build(1337))
        optimizer = Optimizer(model, Optim(rate=1e-3, warmup=100, schedule="cosine", final=0.1), steps, task.roles)
        order, settings = Order(task.num_rows, 12, 1337), loop.Settings(steps, 12)
        dist.barrier()
        before = sent_bytes()
        loop.train(task, model, strategy, optimizer, settings, order, loop.Position())
        dist.barrier()
        size = sent_bytes() - before
        model.load_state_dict(strategy.weights())
        held_out = loop.evaluate(task, model)["loss"] if number == 0 else 0.0
        found[name] = {
            "bytes_a_step": size / steps,
            "held_out": held_out,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        if number == 0:
            print(name, found[name], file=sys.stderr, flush=True)
    if number == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def sent_bytes() -> int:
    """All that the loopback of this namespace has sent."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "text").write_bytes(text())
        words = ["unshare", "-rn", PYTHON, "-c", LAUNCH, PYTHON, str(Path(__file__).resolve()), "--rank", folder, str(steps)]
        subprocess.run(words, check=True, cwd=ROOT, env={**os.environ, **QUIET}, timeout=3_300)
        found = json.loads(Path(folder, "found.json").read_text())
    reference = found["data"]
    rows = {
        name: {
            "kb_a_step": round(each["bytes_a_step"] / 1e3, 1),
            "bytes_of_data": round(each["bytes_a_step"] / reference["bytes_a_step"], 5),
            "held_out_nats_a_byte": round(each["held_out"], 4),
            "loss_of_data": round(each["held_out"] / reference["held_out"], 4),
        }
        for name, each in found.items()
    }
    write("train_local_sgd", {"steps": steps, "parameters": reference["parameters"], "rows": rows})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank(sys.argv[2], int(sys.argv[3]))
    else:
        main()
