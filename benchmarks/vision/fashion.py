"""Fashion-MNIST: a linear probe on what a small vision transformer learned without labels, in CPU-minutes.

A masked autoencoder (patches of 4 × 4, 3 blocks of width 64) is trained on the 60,000 pictures of the training part by gyral's
own loop, by two ranks that all-reduce; then it is frozen, and its hidden states, patch by patch, are what logistic regression
(L-BFGS) sees. Accuracy on the 10,000 pictures of the test part, by which nothing was chosen: sizes, steps and the probe's decay
were set before the run. Beside it, by the same probe: the pixels, and the same network as it was
before training. CPU seconds are those of all processes, with decoding, training, features and probe.

Prediction, written before the run: pixels .84, untrained .865, trained .885.
Command: .venv/bin/python benchmarks/vision/fashion.py [STEPS] (about five CPU-minutes)
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, write

SOURCE = "apt:dataset-fashion-mnist"
STEPS, BATCH, RANKS, DECAY, ITERATIONS = 600, 256, 2, 1e-5, 60


def fashion() -> dict[str, np.ndarray]:
    """Pictures uint8 [N, 28, 28, 1] and labels of both parts."""
    from gyral.packages.fetch import fetch
    from gyral.packages.unpacking import unpack

    folder, _ = unpack(fetch(SOURCE, lambda text: None), lambda text: None)
    found = {}
    for part in ("train", "t10k"):
        for kind, skip, shape in (("images-idx3", 16, (-1, 28, 28, 1)), ("labels-idx1", 8, (-1,))):
            raw = gzip.decompress(next(folder.rglob(f"{part}-{kind}-ubyte.gz")).read_bytes())
            found[f"{part}-{kind[:6]}"] = np.frombuffer(raw, np.uint8, offset=skip).reshape(shape)
    return found


def task_of(pictures: np.ndarray) -> Any:
    from gyral.model.augment import Recipe
    from gyral.model.nets.masked import DecoderShape
    from gyral.model.nets.vit import Shape
    from gyral.model.pictures import Pictures
    from gyral.model.tasks.masked import Masked

    every = Pictures(pictures, [""] * len(pictures), np.arange(len(pictures)))
    shape = Shape(28, 4, 64, 3, 2, 256, channels=1)
    return Masked(shape, DecoderShape(32, 1, 2), 0.75, every, every.only(np.arange(2)), Recipe((0.6, 1.0), flip=0.5), 0)


def train(model: Any, task: Any, rank: int, folder: Path, steps: int) -> list[float]:
    """By `RANKS` processes; losses."""
    import torch.distributed as dist

    from gyral.config.training import Optim
    from gyral.train import loop
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer
    from gyral.train.parallel.data import Data

    meet = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=meet, timeout=timedelta(seconds=1200), rank=rank, world_size=RANKS)
    strategy, losses = Data(), []
    strategy.place(task, model)
    optimizer = Optimizer(model, Optim(rate=3e-3, warmup=50, schedule="cosine", weight_decay=0.05), steps)

    def watch(step: loop.Step) -> None:
        losses.append(step.loss)
        if rank == 0 and step.step % 50 == 0:
            print(step.step, round(step.loss, 4), round(time.process_time(), 1), file=sys.stderr, flush=True)

    settings, order = loop.Settings(steps, BATCH), Order(task.num_rows, BATCH, 0)
    loop.train(task, model, strategy, optimizer, settings, order, loop.Position(), [watch])
    dist.barrier()
    dist.destroy_process_group()
    return losses


def worker(kind: str, rank: int, folder: Path, steps: int) -> None:
    """Features of one kind, of this rank's part of the pictures; the first rank waits for the others and probes."""
    import torch

    from gyral.model.embedder import Embedder
    from gyral.model.probe import logistic

    torch.set_num_threads(1)
    data = fashion()
    pixels = np.concatenate([data["train-images"], data["t10k-images"]])
    labels, truth = data["train-labels"].astype(np.int64), data["t10k-labels"].astype(np.int64)
    losses: list[float] = []
    ranks = RANKS if kind == "trained" else 1
    mine = pixels[rank * len(pixels) // ranks : (rank + 1) * len(pixels) // ranks]
    if kind == "pixels":
        features = pixels.reshape(len(pixels), -1).astype(np.float32)
    else:
        task = task_of(data["train-images"])
        model = task.build(0)
        if kind == "trained":
            losses = train(model, task, rank, folder, steps)
        features = Embedder(model).tokens(mine)[:, 1:].reshape(len(mine), -1)
    if rank:
        np.save(folder / "part.npy", features)
        (folder / "done.json").write_text(json.dumps(time.process_time()))
        return
    cpu_s = 0.0
    if ranks > 1:
        deadline = time.monotonic() + 1800
        while not (folder / "done.json").exists():
            if time.monotonic() > deadline:
                raise SystemExit("waited 30 minutes for the features of rank 1")
            time.sleep(0.5)
        features = np.concatenate([features, np.load(folder / "part.npy")])
        cpu_s = json.loads((folder / "done.json").read_text())
    before = time.process_time()
    print(kind, "features", features.shape, round(before + cpu_s, 1), file=sys.stderr, flush=True)
    probe = logistic(features[: len(labels)], labels, decays=(DECAY,), iterations=ITERATIONS)
    accuracy = probe.accuracy(features[len(labels) :], truth)
    told = {"accuracy": accuracy, "features": features.shape[1], "cpu_s": round(time.process_time() + cpu_s, 1)}
    told |= {"probe_cpu_s": round(time.process_time() - before, 1)}
    print(json.dumps({**told, **({"loss_first": losses[0], "loss_last": losses[-1]} if losses else {})}))


def main(steps: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    with tempfile.TemporaryDirectory() as text:
        started = {
            (kind, rank): subprocess.Popen(
                [PYTHON, __file__, kind, str(rank), text, str(steps)], stdout=subprocess.PIPE, text=True, env=environment
            )
            for kind, ranks in (("trained", RANKS), ("untrained", 1), ("pixels", 1))
            for rank in range(ranks)
        }
        told = {key: process.communicate()[0] for key, process in started.items()}
    failed = [key for key, process in started.items() if process.returncode]
    if failed:
        raise SystemExit(f"failed: {failed}")
    found = {kind: json.loads(out.splitlines()[-1]) for (kind, rank), out in told.items() if rank == 0}
    write("vision_fashion", {"steps": steps, "batch": BATCH, "ranks": RANKS, "seed": 0, **found})


if __name__ == "__main__":
    if len(sys.argv) > 4:
        worker(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
