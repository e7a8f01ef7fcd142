"""One rank of the checkpoint matrix: saves and loads by some layouts, one after the other, inside one process group.

python layouts_worker.py FOLDER JOBS    a job is [save or load, layouts, those it loads from]; a layout is one of `LAYOUTS`
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.distributed as dist

from gyral.config.training import Optim, Train
from gyral.engine.ranks import leave
from gyral.model.nets.llama import Shape
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train import loop, saved
from gyral.train.checkpoint import Checkpoints
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel import mesh

LAYOUTS = {
    "alone": "", "data2": "data=2", "shard2": "shard=2", "shard4": "shard=4", "shard2-tensor2": "shard=2,tensor=2",
    "data2-shard2": "data=2,shard=2", "tensor2": "tensor=2", "pipeline2": "pipeline=2",
    "pipeline2-tensor2": "pipeline=2,tensor=2", "interleaved2": "pipeline=2",
}  # fmt: skip
TABLES = {"rows": "row", "columns": "column", "tables": "table", "whole": "replicate"}
"""Layouts of tables, over `data=2`; `bag` is the model with tables alone."""
ROWWISE = "-rowwise"
"""Ends the name of a layout of tables that learn by rowwise Adagrad."""
BEFORE, AFTER, BATCH = 4, 3, 8


def task_of(layout):
    if layout in (*TABLES, "bag"):
        sys.path.insert(0, str(Path(__file__).parent / "parallel"))
        from pieces_worker import Clicks

        return Clicks()
    drawn = np.random.default_rng(0)
    texts = Text([bytes(drawn.integers(97, 120, 200, np.uint8)) for _ in range(60)])
    return NextToken(Shape(257, 32, 4, 4, 4, 44, True), 24, texts)


def training(layout, folder, seed):
    """A training of one layout, and a function that does some steps of it and gives their losses."""
    optim = Optim(rate=3e-3, clip=0.5, warmup=2, tables="rowwise_adagrad" if layout.endswith(ROWWISE) else "adamw")
    layout = layout.removesuffix(ROWWISE)
    parallel = LAYOUTS.get(layout, "data=2" if layout in TABLES else "")
    axes = mesh.parse(parallel)
    words = {"tables": TABLES.get(layout, "replicate"), "schedule": "interleaved" if layout == "interleaved2" else "1f1b"}
    train = msgspec.convert({"parallel": parallel, "batch": BATCH, "microbatch": 2, **words}, Train)
    train = msgspec.structs.replace(train, optim=optim)
    task, strategy = task_of(layout), mesh.strategy_of(axes, train)
    model = strategy.place(task, task.build(seed))
    optimizer = Optimizer(model, optim, BEFORE + AFTER, task.roles)
    order = Order(task.num_rows, BATCH, 5)
    rank, count = (dist.get_rank(), dist.get_world_size()) if axes else (0, 1)
    checkpoints = Checkpoints(folder, model, optimizer, strategy, order, mesh=axes, rank=rank, count=count)
    if not axes:
        checkpoints._exchange = lambda text: [text]

    def go(position, steps):
        losses = []
        settings = loop.Settings(position.step + steps, BATCH, 2, clip=0.5)
        loop.train(task, model, strategy, optimizer, settings, order, position, [lambda step: losses.append(step.loss)])
        return losses

    return checkpoints, go


def save(folder, layout):
    """Losses of the steps after a checkpoint."""
    checkpoints, go = training(layout, folder / layout, 3)
    position = loop.Position()
    go(position, BEFORE)
    checkpoints.save(position)
    losses = go(position, AFTER)
    checkpoints.wait()
    return losses


def load(folder, source, layout):
    """Losses of the same steps by another layout, after a model of another seed was overwritten by the checkpoint."""
    checkpoints, go = training(layout, folder / source, 77)
    position = checkpoints.load(saved.read(folder / source, BEFORE))
    return go(position, AFTER)


def main():
    folder, rank, count = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    jobs = json.loads(sys.argv[2])
    meet = f"file://{folder}/meet-{os.environ['NAME']}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=count, timeout=timedelta(seconds=300))
    torch.set_num_threads(1)
    results = []
    for what, layouts, sources in jobs:
        results.append({})
        for layout in layouts:
            if layout.removesuffix(ROWWISE) in ("alone", "bag") and rank:
                continue
            if what == "save":
                results[-1][layout] = save(folder, layout)
            for source in sources:
                results[-1][f"{source}>{layout}"] = load(folder, source, layout)
        dist.barrier()  # what the first rank alone saved is there before others load it
    if rank == 0:
        (folder / f"{os.environ['NAME']}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave()
