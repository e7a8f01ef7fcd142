"""The one loop: settle, take the step's data, compute, reduce, update, record. Read this first of all in `train/`.

Every step is either done by everybody or done again by whoever is left: nothing is learned twice and nothing is lost. What a
step trains on is a function of the seed and the step (`loader`), so a run has one position, an integer. The ledger gets one
line a committed step: from it a single process can replay and judge the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gyral.errors import InputError
from gyral.model.task import Batch, Task
from gyral.train.ema import Ema
from gyral.train.guard import Copy, Guard
from gyral.train.loader import Ahead, Ended, Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Strategy, Totals

MAX_RETRIES = 100
"""Attempts at one step before the run is given up: members go and come, but not for ever."""


@dataclass(frozen=True)
class Settings:
    """What the loop itself is told.

    Attributes
    ----------
    steps : to be done in all, those before a resume included.
    batch : rows of a step, all ranks together.
    microbatch : rows computed at once; 0: all of a rank's.
    clip : largest norm of a gradient; 0: no limit.
    evaluate_every, checkpoint_every : steps; 0: at the end only.
    copy_every : steps between copies in memory, where a guard wants them.
    """

    steps: int
    batch: int
    microbatch: int = 0
    clip: float = 1.0
    evaluate_every: int = 0
    checkpoint_every: int = 0
    copy_every: int = 50


@dataclass(frozen=True)
class Step:
    """One committed step, as the ledger has it.

    Attributes
    ----------
    first, last : places of the stream of examples that it trained on, [first, last).
    members : how many processes computed it.
    retries : attempts that failed before.
    skipped : its loss or gradient was not finite or far off, so nothing was updated.
    back : the state was set to that after so many steps; what was learned since is forgotten, its rows are not read again.
    """

    step: int
    first: int
    last: int
    members: int
    retries: int
    loss: float
    weight: float
    norm: float
    rate: float
    seconds: float
    skipped: bool = False
    back: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Position:
    """Where a run stands; `step` is the number of steps that are done."""

    step: int = 0
    skipped: int = 0


Watch = Callable[[Step], None]


def train(
    task: Task,
    model: nn.Module,
    strategy: Strategy,
    optimizer: Optimizer,
    settings: Settings,
    order: Order,
    position: Position,
    watches: Sequence[Watch] = (),
    every: Sequence[tuple[int, Callable[[int], Any]]] = (),
    guard: Guard | None = None,
    ema: Ema | None = None,
) -> None:
    """Train until `settings.steps` are done, or a live stream has ended.

    Parameters
    ----------
    model : as `strategy.place` gave it; `optimizer` holds its parameters.
    position : where to begin; it is moved on with each committed step.
    watches : called with every committed step: ledger, meter. An exception ends the run.
    every : (n, function): the function is called with the number of steps done after each n-th, and after the last; n = 0 only
        after the last. All ranks call it.
    guard : judges each step from sums over all ranks; None: one that leaves out what is not finite.
    ema : moving average to be kept up.

    Raises
    ------
    QualityError : steps after steps that could not be learned from.
    """
    model.train()
    guard = guard or Guard()
    guard.num_skipped = position.skipped
    ahead = Ahead(order)
    called: dict[int, int] = {}

    def call(is_last: bool) -> None:
        for number, (interval, function) in enumerate(every):
            if called.get(number) != position.step and (is_last or (interval and position.step % interval == 0)):
                called[number] = position.step
                function(position.step)
                model.train()

    while position.step < settings.steps:
        begun = time.perf_counter()
        try:
            totals, retries = _compute(task, strategy, optimizer, settings, ahead, position)
        except Ended:
            break
        step = position.step
        norm = strategy.clip(settings.clip)
        verdict = guard.judge(step, totals.loss, norm)
        back = None
        if verdict == "learn":
            if guard.spike and step % settings.copy_every == 0:
                guard.keep(Copy(step, model, optimizer.inner, strategy, ema.shadow.values() if ema else ()))
            optimizer.step(step)
            task.after_step(model, step)
            if ema is not None:
                ema.update()
        elif verdict == "back":
            back = guard.back()
        optimizer.zero_grad()
        strategy.commit(step)
        position.step, position.skipped = step + 1, guard.num_skipped
        first = step * order.batch
        record = Step(
            step, first, first + order.batch, strategy.num_ranks, retries, totals.loss, totals.weight, norm,
            optimizer.rate(step), time.perf_counter() - begun, verdict != "learn", back, totals.metrics,
        )  # fmt: skip
        for watch in watches:
            watch(record)
        call(position.step == settings.steps)
    call(is_last=True)


def _compute(
    task: Task, strategy: Strategy, optimizer: Optimizer, settings: Settings, ahead: Ahead, position: Position
) -> tuple[Totals, int]:
    """Gradients of one step's global batch, however often the members change meanwhile; settling may move the position on."""
    size = 0 if task.cross_sample else settings.microbatch
    for retries in range(MAX_RETRIES):
        part = strategy.settle(position.step)
        step = position.step
        examples = ahead.examples(step)
        batches: list[Batch] = [task.batch(examples[low:high], step) for low, high in part.cuts(len(examples), size)]
        totals = strategy.reduce(strategy.forward_backward(batches))
        if totals is not None:
            return totals, retries
        optimizer.zero_grad()
    what = f"step {position.step} failed {MAX_RETRIES} times"
    raise InputError(what, why="members were lost in each", hint="look at their logs")


@torch.no_grad()
def evaluate(task: Task, model: nn.Module) -> dict[str, float]:
    """Metrics of a model as it is; it is left in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        return dict(task.evaluate(model))
    finally:
        model.train(was_training)
