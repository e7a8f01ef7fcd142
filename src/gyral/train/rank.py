"""One rank of a training: the same code alone in the verb's process, or as one of several processes.

    python -m gyral.train.rank JOB      RANK, WORLD_SIZE and where to meet come from the environment, as torchrun sets them

A job is a file of words: project, dataset, configuration, folder. Nothing else travels from the verb to its ranks; what comes
back lies in the folder: the first rank's `metrics.jsonl`, `ledger.jsonl`, the checkpoint, and each one's log.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import msgspec
import torch
import torch.distributed as dist

from gyral.config import Config
from gyral.engine.ranks import AGAIN, leave
from gyral.errors import GyralError, RankError, UsageError, render
from gyral.files import write_atomic
from gyral.memory import peak_bytes
from gyral.model.card import Weights, write_weights
from gyral.model.task import Task
from gyral.train import blocks, device, hardware, loop, saved
from gyral.train.checkpoint import Checkpoints, versions
from gyral.train.ema import Ema
from gyral.train.guard import Copy, Guard, Whole
from gyral.train.held_out import Evaluation, HeldOut
from gyral.train.loader import Order
from gyral.train.optim import scale_initial
from gyral.train.parallel import mesh
from gyral.train.parallel.strategy import Strategy
from gyral.train.profile import Profile
from gyral.train.saved import LEDGER, Pins
from gyral.train.start import begin_from
from gyral.train.tasks import open_task

TIMEOUT_S = 120.0
RESULT, MEET = "result.json", "GYRAL_MEET"


class Job(msgspec.Struct, frozen=True):
    """What a rank is told.

    Attributes
    ----------
    begin : step of the checkpoint in `folder` to go on from; 0: there is none.
    checkpoint_every : steps; 0: none is made.
    pins : what a run that goes on from this one must share with it.
    versions : of the verb; a rank of others refuses.
    """

    root: str
    dataset: str
    folder: str
    steps: int
    config: Config
    begin: int = 0
    checkpoint_every: int = 0
    pins: Pins = Pins()
    versions: dict[str, str] = {}


class Result(msgspec.Struct):
    """What the first rank answers.

    Attributes
    ----------
    metrics : of the weights that are published, which were those after `best_step` steps.
    elapsed_s, stepping_s : from before the first step to the end, and the steps alone: `stepped`, none of a run before.
    flops : of one step of all ranks together; `peak` and `memory_bytes` are those of one rank.
    server : what the parameter server told, where there was one: staleness, rows, links.
    """

    steps: int
    loss: list[float]
    metrics: dict[str, float]
    ranks: int
    elapsed_s: float
    best_step: int = 0
    stepping_s: float = 0.0
    flops: float = 0.0
    peak: hardware.Peak = hardware.Peak(0.0, 0.0, 1)
    memory_bytes: int = 0
    stepped: int = 0
    server: dict[str, Any] = {}


class Trained:
    """What training leaves in the process of the first rank; weights are those of the whole model."""

    def __init__(self, task: Task, weights: dict[str, torch.Tensor], result: Result) -> None:
        self.task, self.weights, self.result = task, weights, result


def work(
    job: Job,
    on_step: Callable[[loop.Step], Any] | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    task: Task | None = None,
    strategy: Strategy | None = None,
    keep: Callable[[loop.Step], None] | None = None,
) -> Trained:
    """Train as one rank; the first one writes the ledger and the result.

    Parameters
    ----------
    task : opened already, where the verb trains in its own process; its data is not read again.
    strategy : instead of that of the mesh.
    keep : takes each step, instead of the first rank's ledger.

    Raises
    ------
    GyralError : whatever cannot be used, told by this rank.
    """
    config, folder = job.config, Path(job.folder)
    axes = mesh.parse(config.train.parallel)
    task = task or open_task(Path(job.root), job.dataset, config)
    strategy = strategy or mesh.strategy_of(axes, config.train)
    if config.train.batch < (parts := mesh.num_parts(axes)):
        raise UsageError(f"a batch of {config.train.batch} has no row for each of {parts} ranks", hint="raise `train.batch`")
    model, flops, twice = placed(job, task, strategy)
    optimizer = strategy.optimizer(model, config.train.optim, job.steps, task.roles)
    settings = loop.Settings(
        job.steps, config.train.batch, config.train.microbatch, config.train.optim.clip,
        config.train.evaluate_every, job.checkpoint_every, config.train.optim.snapshot_every,
    )  # fmt: skip
    live = getattr(task, "live", None)
    batch, seed = config.train.batch, config.train.seed
    order: Order = live.order(folder, batch, seed) if live is not None else Order(task.num_rows, batch, seed)
    ema = Ema(model, config.train.ema) if config.train.ema else None
    guard = Guard(config.train.optim.spike)
    is_grouped = dist.is_available() and dist.is_initialized()
    checkpoints = Checkpoints(
        folder, model, optimizer, strategy, order, pins=job.pins, mesh=axes, keep=config.train.keep_checkpoints,
        parts={"guard": guard, **({"ema": ema} if ema else {})}, before=[folder / LEDGER],
        rank=dist.get_rank() if is_grouped else 0, count=dist.get_world_size() if is_grouped else 1,
    )  # fmt: skip
    position = checkpoints.begin(job.begin)
    held_out = HeldOut(
        task, model, strategy, folder, keep="last" if live is not None else config.train.keep, last_step=job.steps, ema=ema,
        listener=on_evaluation,
    )  # fmt: skip
    whole = Whole(guard, lambda: Copy(0, model, optimizer.inner, strategy, ema.shadow.values() if ema else ()))
    strategy.follow(optimizer, position, {"guard": whole, "held_out": held_out, **({"ema": ema} if ema else {})})

    def save(_: int) -> None:
        if settings.checkpoint_every and (is_grouped or strategy.is_first):
            checkpoints.save(position)

    done = position.step if strategy.is_first else 0
    peak, begun = hardware.measure(), time.monotonic()
    with Kept(job, strategy, done, keep or on_step, is_told=keep is not None) as kept:
        every: list[tuple[int, Callable[[int], Any]]] = [(settings.checkpoint_every, save), (settings.evaluate_every, held_out)]
        loop.train(task, model, strategy, optimizer, settings, order, position, [kept], every, guard, ema)
    if live is not None:
        live.close(position.step)
    checkpoints.wait()
    metrics = held_out.publish()
    weights = {name: tensor for name, tensor in strategy.weights().items() if name not in twice}
    told = strategy.told()
    strategy.close()
    result = Result(
        position.step, kept.losses, metrics, strategy.num_ranks, time.monotonic() - begun,
        held_out.best.step if held_out.best else position.step, kept.stepping_s, flops, peak, peak_bytes(),
        kept.stepped, told,
    )  # fmt: skip
    return Trained(task, weights, result)


def placed(job: Job, task: Task, strategy: Strategy) -> tuple[torch.nn.Module, float, set[str]]:
    """The model as its ranks hold it, FLOPs of a step of all of them, and second names of tied parameters."""
    train = job.config.train
    built = task.build(train.seed)
    flops = task.flops(built) * train.batch
    if not train.start:
        scale_initial(built, train.optim, task.roles)
    elif not task.begins_itself:
        begin_from(built, Path(job.root), train.start)
    once = {name for name, _ in built.named_parameters()}
    twice = {name for name, _ in built.named_parameters(remove_duplicate=False)} - once
    return strategy.place(task, blocks.prepare(built, task.roles, train)), flops, twice


class Kept:
    """What becomes of each step: a line of the ledger, its loss, its time, a trace.

    Parameters
    ----------
    done : steps that an earlier run did; their losses are in the ledger.
    tell : told of each step that this rank writes; where `is_told`, of each step, and the ledger is another's.
    """

    def __init__(
        self, job: Job, strategy: Strategy, done: int, tell: Callable[[loop.Step], Any] | None, is_told: bool = False
    ) -> None:
        folder, num_traced = Path(job.folder), job.config.train.profile
        self._strategy, self._tell, self._is_told = strategy, tell, is_told
        path = folder / LEDGER
        self.losses = [msgspec.json.decode(line, type=loop.Step).loss for line in saved.ledger_until(path, done)]
        self.stepping_s, self.stepped = 0.0, 0
        self._ledger = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self._profile = Profile(folder, num_traced) if num_traced and strategy.is_first else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ledger.close()
        if self._profile is not None:
            self._profile.close()

    def __call__(self, step: loop.Step) -> None:
        self.losses.append(step.loss)
        self.stepping_s += step.seconds
        self.stepped += 1
        if self._strategy.is_first and not self._is_told:
            self._ledger.write(msgspec.json.encode(step) + b"\n")
        if self._tell is not None and (self._strategy.is_first or self._is_told):
            self._tell(step)
        if self._profile is not None:
            self._profile(step)


def publishable(trained: Trained) -> Weights:
    """Arrays and settings of a trained model; one that appears under two names is stored once."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in trained.weights.items()}
    return Weights(arrays, trained.task.settings())


def check_versions(asked: dict[str, str], here: dict[str, str]) -> None:
    """Refuse to train with others of another version: they may compute or store something else.

    Raises
    ------
    UsageError : names both.
    """
    differ = [name for name, version in asked.items() if here.get(name) != version]
    if differ:
        told = ", ".join(f"{name} {here.get(name, 'none')} here, {asked[name]} there" for name in differ)
        hint = "install the same versions everywhere"
        raise UsageError("this rank has other versions than the run", why=told, where=sys.executable, hint=hint)


@contextlib.contextmanager
def grouped() -> Iterator[None]:
    """A block in which all ranks of the run are one process group."""
    dist.init_process_group(
        device.backend(),
        init_method=os.environ.get(MEET, "env://"),
        timeout=timedelta(seconds=TIMEOUT_S),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def main(path: str) -> None:
    """Join the others, train, leave the result."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    job = msgspec.json.decode(Path(path).read_bytes(), type=Job)
    check_versions(job.versions, versions())
    if "elastic" in mesh.parse(job.config.train.parallel):
        from gyral.train.elastic.member import take_part

        return take_part(job)
    if job.config.train.sync != "allreduce":
        from gyral.train.workers import take_part as work_with_server

        return work_with_server(job)
    with grouped():
        trained = work(job)
        if dist.get_rank() == 0:
            folder = Path(job.folder)
            write_weights(folder, publishable(trained))
            write_atomic(folder / RESULT, msgspec.json.encode(trained.result))
        dist.barrier()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except GyralError as error:
        print("error:", render(error), file=sys.stderr)
        sys.exit(AGAIN if isinstance(error, RankError) else error.exit_code)
    leave()
