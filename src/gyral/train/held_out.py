"""Evaluation while a model is trained, and which of its weights are published: the best of those evaluated, or the last.

With a moving average it is the average that is measured and published. Whether an evaluation is the best so far is decided by
the first rank alone and told to the others, so that each keeps its part of the same weights; that copy is made only when a
later one might be worse.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gyral.model.metrics import SMALLER_IS_BETTER
from gyral.model.task import Task
from gyral.train import loop
from gyral.train.ema import Ema
from gyral.train.parallel.strategy import Strategy

FILE = "held_out.jsonl"


class Evaluation(msgspec.Struct, frozen=True):
    """One evaluation, as a line of `held_out.jsonl`; `step` is the number of steps done."""

    step: int
    metrics: dict[str, float]
    is_best: bool = True


class HeldOut:
    """Evaluates one model whenever it is called.

    Parameters
    ----------
    keep : `best` or `last`.
    last_step : after which nothing follows that could be worse.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        strategy: Strategy,
        folder: Path,
        *,
        keep: str = "best",
        last_step: int = 0,
        ema: Ema | None = None,
        listener: Callable[[Evaluation], None] | None = None,
    ) -> None:
        self.best: Evaluation | None = None
        self._task, self._model, self._strategy, self._ema = task, model, strategy, ema
        self._path, self._keep, self._last_step, self._listener = folder / FILE, keep, last_step, listener
        self._copies: list[Tensor] = []

    def __call__(self, step: int) -> None:
        """Evaluate after `step` steps; all ranks call it."""
        with self._ema.in_place() if self._ema else contextlib.nullcontext():
            with self._strategy.to_evaluate() as evaluated:
                metrics = loop.evaluate(self._task, evaluated) if evaluated is not None else {}
            is_best = agreed(self._keep == "last" or self.best is None or is_better(metrics, self.best.metrics))
            if is_best:
                self._copies = [] if step == self._last_step or self._keep == "last" else self._values(clone=True)
        found = Evaluation(step, metrics, is_best)
        self.best = found if is_best else self.best
        if self._strategy.is_first:
            with open(self._path, "ab") as file:
                file.write(msgspec.json.encode(found) + b"\n")
            if self._listener is not None:
                self._listener(found)

    @torch.no_grad()
    def publish(self) -> dict[str, float]:
        """Give the model the weights that are to be published, and tell their metrics."""
        if self._copies:
            for value, copy in zip(self._values(), self._copies, strict=True):
                value.copy_(copy)
        elif self._ema:
            self._ema.swap()
        return dict(self.best.metrics) if self.best else {}

    def state(self) -> dict[str, Any]:
        """The best evaluation so far, and its weights: for whoever joins a run that goes on, and may end it."""
        best = msgspec.structs.asdict(self.best) if self.best is not None else None
        return {"best": best, "copies": self._copies}

    def load(self, state: dict[str, Any]) -> None:
        """The way back."""
        self.best = Evaluation(**state["best"]) if state["best"] is not None else None
        self._copies = list(state["copies"])

    def _values(self, clone: bool = False) -> list[Tensor]:
        found = [tensor.detach() for tensor in (*self._model.parameters(), *self._model.buffers())]
        return [tensor.clone() for tensor in found] if clone else found


def is_better(metrics: dict[str, float], than: dict[str, float]) -> bool:
    """Compare by the loss, or by the first metric where there is none; what is as good counts, so that the later one stays."""
    name = "loss" if "loss" in metrics else next(iter(metrics), "")
    if name not in than:
        return True
    if name.endswith(SMALLER_IS_BETTER):
        return metrics[name] <= than[name]
    return metrics[name] >= than[name]


def agreed(answer: bool) -> bool:
    """What the first rank answers; alone, one's own."""
    if not (dist.is_available() and dist.is_initialized()):
        return answer
    told = torch.tensor([float(answer)])
    dist.broadcast(told, 0)
    return bool(told.item())
