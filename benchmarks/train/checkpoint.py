"""How long a save holds up training: ours beside torch's `dcp.async_save` and `dcp.save`, by two ranks that share every weight.

Claim (T4): a save costs the training thread ≤ 5 % of a step interval, once the buffer is there. Predicted before the first run,
for 8.4M parameters (100 MB of state, 50 MB a rank): 10 ms of a 1.5 s step for ours, 100 ms for `dcp.async_save`, 300 ms for
`dcp.save`, all on a busy machine.

    .venv/bin/python benchmarks/train/checkpoint.py [ROUNDS]

Every round each of the three saves once, between two steps; while ours and torch's write, training goes on. `blocked` is wall
time in the call; `cpu` is what the calling thread computed in it, which a neighbour does not change. Step intervals are those
without a save.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure

RANKS, STEPS_BETWEEN = 2, 2


def rank(folder: str, rounds: int) -> None:
    """One rank: train, and save in turn."""
    import numpy as np
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    from gyral.config.training import Optim, Train
    from gyral.model.nets.llama import Shape
    from gyral.model.tasks.next_token import NextToken, Text
    from gyral.train import loop, saved
    from gyral.train.checkpoint import Checkpoints
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer
    from gyral.train.parallel import mesh

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    number = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=RANKS)
    texts = Text([np.random.default_rng(0).integers(97, 123, 400_000, np.uint8).tobytes()])
    task = NextToken(Shape(257, 320, 6, 5, 5, 864), 256, texts)
    strategy = mesh.strategy_of({"shard": RANKS}, Train(parallel=f"shard={RANKS}", batch=8))
    model = strategy.place(task, task.build(0))
    optimizer = Optimizer(model, Optim(), 1000)
    order = Order(task.num_rows, 8, 0)
    ours = Checkpoints(Path(folder, "ours"), model, optimizer, strategy, order, rank=number, count=RANKS, keep=1)
    position = loop.Position()
    intervals: list[float] = []
    told: dict[str, dict[str, list[float]]] = {
        name: {"blocked_s": [], "cpu_s": [], "whole_s": []} for name in ("ours", "async", "save")
    }
    group = dist.new_group(backend="gloo")

    def steps(count: int, is_measured: bool) -> None:
        taken: list[float] = []
        settings = loop.Settings(position.step + count, 8)
        loop.train(task, model, strategy, optimizer, settings, order, position, [lambda step: taken.append(step.seconds)])
        intervals.extend(taken if is_measured else [])

    def timed(name: str, begin, finish, is_measured: bool) -> None:
        dist.barrier()
        begun, cpu = time.perf_counter(), time.thread_time()
        pending = begin()
        blocked, cpu = time.perf_counter() - begun, time.thread_time() - cpu
        if name != "save":
            steps(1, False)
        finish(pending)
        values = {"blocked_s": blocked, "cpu_s": cpu, "whole_s": time.perf_counter() - begun}
        for figure, value in values.items():
            told[name][figure].extend([value] if is_measured else [])

    def state() -> dict:
        parts = get_state_dict(model, optimizer.inner)
        return {"model": parts[0], "optimizer": parts[1]}

    place = Path(folder)
    for turn in range(rounds + 1):
        steps(STEPS_BETWEEN, turn > 0)
        timed("ours", lambda: ours.save(position), lambda _: ours.wait(), turn > 0)
        timed(
            "async", lambda: dcp.async_save(state(), checkpoint_id=place / "async", process_group=group),
            lambda future: future.result(), turn > 0,
        )  # fmt: skip
        timed("save", lambda: dcp.save(state(), checkpoint_id=place / "save"), lambda _: None, turn > 0)
        dist.barrier()
        if number == 0:
            for name in ("async", "save"):
                shutil.rmtree(place / name)
        dist.barrier()
    size = sum(param.numel() for param in model.parameters())
    begun = time.perf_counter()
    ours.load(saved.newest(ours.folder))
    load_s = time.perf_counter() - begun
    if number == 0:
        found = saved.newest(ours.folder)
        mb = sum(mark.size_bytes for mark in found.manifest.files.values()) / 1e6
        result = {"parameters": size, "checkpoint_mb": mb, "load_and_verify_s": load_s, "interval_s": intervals, **told}
        (place / "result.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def main(rounds: int) -> None:
    """Start the ranks; print medians."""
    folder = tempfile.mkdtemp()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    words = [measure.PYTHON, __file__, folder, str(rounds)]
    ranks = [subprocess.Popen(words, env={**environment, "RANK": str(number)}) for number in range(RANKS)]
    if any([each.wait(580) for each in ranks]):
        raise SystemExit("a rank failed")
    result = json.loads(Path(folder, "result.json").read_text())
    shutil.rmtree(folder)
    interval = statistics.median(result["interval_s"])
    figures = {
        name: {key: statistics.median(values) for key, values in result[name].items()} for name in ("ours", "async", "save")
    }
    shares = {name: round(each["blocked_s"] / interval, 4) for name, each in figures.items()}
    measure.write(
        "train_checkpoint",
        {
            "ranks": RANKS, "rounds": rounds, "parameters": result["parameters"],
            "checkpoint_mb": result["checkpoint_mb"],
            "interval_s": interval, "blocked_share_of_a_step": shares, "medians": figures,
            "load_and_verify_s": result["load_and_verify_s"], "raw": result,
        },
    )  # fmt: skip


if __name__ == "__main__":
    if "RANK" in os.environ:
        rank(sys.argv[1], int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
