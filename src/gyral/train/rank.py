"""One rank of a training: the same code alone in the verb's process, or as one of several processes.

    python -m gyral.train.rank JOB      RANK, WORLD_SIZE and where to meet come from the environment, as torchrun sets them

A job is a file of words: project, dataset, configuration, folder. Nothing else travels from the verb to its ranks; what comes
back lies in the folder: the first rank's `metrics.jsonl`, `ledger.jsonl`, the checkpoint, and each one's log.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from gyral.config import Config
from gyral.engine.ranks import AGAIN
from gyral.errors import GyralError, RankError, UsageError, render
from gyral.files import write_atomic
from gyral.model.card import Weights, write_weights
from gyral.model.task import Task
from gyral.train import loop
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel import mesh
from gyral.train.parallel.strategy import Strategy
from gyral.train.tasks import open_task

TIMEOUT_S = 120.0
LEDGER = "ledger.jsonl"
RESULT = "result.json"


class Job(msgspec.Struct, frozen=True):
    """What a rank is told."""

    root: str
    dataset: str
    folder: str
    steps: int
    config: Config


class Result(msgspec.Struct):
    """What the first rank answers."""

    steps: int
    loss: list[float]
    metrics: dict[str, float]
    ranks: int
    elapsed_s: float


class Trained:
    """What training leaves in the process of the first rank."""

    def __init__(self, task: Task, model: torch.nn.Module, result: Result) -> None:
        self.task, self.model, self.result = task, model, result


def work(
    job: Job,
    on_step: Callable[[loop.Step, Task], Any] | None = None,
    strategy: Strategy | None = None,
    keep: Callable[[loop.Step], None] | None = None,
) -> Trained:
    """Train as one rank; the first one writes the ledger and the result.

    Parameters
    ----------
    strategy : instead of that of the mesh.
    keep : takes each step, instead of the first rank's ledger.

    Raises
    ------
    GyralError : whatever cannot be used, told by this rank.
    """
    config = job.config
    axes = mesh.parse(config.train.parallel)
    task = open_task(Path(job.root), job.dataset, config)
    strategy = strategy or mesh.strategy_of(axes)
    if config.train.batch < strategy.num_ranks:
        raise UsageError(f"a batch of {config.train.batch} is less than {strategy.num_ranks} ranks", hint="raise `train.batch`")
    model = strategy.place(task, task.build(config.train.seed))
    optimizer = Optimizer(model, config.train.optim, job.steps)
    settings = loop.Settings(
        job.steps, config.train.batch, config.train.microbatch, config.train.optim.clip,
        config.train.evaluate_every, config.train.checkpoint_every,
    )  # fmt: skip
    order = Order(task.num_rows, config.train.batch, config.train.seed)
    position = loop.Position()
    strategy.follow(optimizer, position)
    losses: list[float] = []
    metrics: dict[str, float] = {}
    begun = time.monotonic()

    def evaluate(_: int) -> None:
        if strategy.is_first:
            metrics.update(loop.evaluate(task, model))

    with open(Path(job.folder) / LEDGER, "ab", buffering=0) as ledger:

        def watch(step: loop.Step) -> None:
            losses.append(step.loss)
            if keep is not None:
                keep(step)
            elif strategy.is_first:
                ledger.write(msgspec.json.encode(step) + b"\n")
                if on_step is not None:
                    on_step(step, task)

        loop.train(task, model, strategy, optimizer, settings, order, position, [watch], [(settings.evaluate_every, evaluate)])
    strategy.close()
    result = Result(job.steps, losses, metrics, strategy.num_ranks, time.monotonic() - begun)
    return Trained(task, model, result)


def publishable(trained: Trained) -> Weights:
    """Arrays and settings of a trained model; one that appears under two names is stored once."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in trained.model.state_dict().items()}
    return Weights(arrays, trained.task.settings())


def main(path: str) -> None:
    """Join the others, train, leave the result."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    job = msgspec.json.decode(Path(path).read_bytes(), type=Job)
    if "elastic" in mesh.parse(job.config.train.parallel):
        from gyral.train.elastic.member import take_part

        return take_part(job)
    dist.init_process_group(
        "gloo",
        init_method=os.environ.get("GYRAL_MEET", "env://"),
        timeout=timedelta(seconds=TIMEOUT_S),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    try:
        trained = work(job)
        if dist.get_rank() == 0:
            folder = Path(job.folder)
            write_weights(folder, publishable(trained))
            write_atomic(folder / RESULT, msgspec.json.encode(trained.result))
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except GyralError as error:
        print("error:", render(error), file=sys.stderr)
        sys.exit(AGAIN if isinstance(error, RankError) else error.exit_code)
