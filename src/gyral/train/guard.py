"""What stops a bad batch or a bad update from spoiling a run: a loss far above the last ones is not learned from, and a model
that does not come back is set to what it was.

A step is judged by its loss before the update, and the loss is summed over all ranks, so all judge alike and a replay does too.
Far above means z > limit with z = (loss − median) / (1.4826 MAD) of the last losses learned from; deviations below 1 % of the
median count as 1 %, or a run that has converged would call every ripple a spike. One spike is skipped: its rows are passed
over. When more follow without a sound step between them the weights are at fault and not the rows: the model and the
optimizer go back to a copy in memory, and training goes on *behind* the rows that spoiled it. The copy takes as much memory
as the model and its moments, three times the weights.

Source: skipping and rewinding past the data is Chowdhery et al. 2022 (PaLM), section 5.1; the robust z is Iglewicz and Hoaglin
1993.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gyral.errors import QualityError
from gyral.train.parallel.strategy import Strategy

Verdict = Literal["learn", "skip", "back"]
WINDOW = 64
"""Losses that a new one is compared with."""
MIN_SEEN = 16
"""Before so many nothing is called a spike."""
FLOOR = 0.01
"""Share of the median that a deviation is at least."""
MAX_BACK = 3
"""Times that a run goes back to one and the same copy."""


class Guard:
    """Judges every step of one run.

    Parameters
    ----------
    spike : limit of the robust z; 0: only what is not finite is left out.
    max_skipped : steps in a row that are left out before the run goes back, or is refused where there is nothing to go back to.
    """

    def __init__(self, spike: float = 0.0, max_skipped: int = 3) -> None:
        self.spike, self.max_skipped = spike, max_skipped
        self.num_skipped = self.num_back = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._copy: Copy | None = None

    def judge(self, step: int, loss: float, norm: float) -> Verdict:
        """What is to be done with a step.

        Raises
        ------
        QualityError : too many steps in a row could not be learned from, and going back did not help.
        """
        is_sound = math.isfinite(norm) and math.isfinite(loss)
        z = self.z(loss) if is_sound and self.spike else 0.0
        if is_sound and z <= self.spike:
            self._losses.append(loss)
            self.num_skipped = 0
            return "learn"
        self.num_skipped += 1
        if self.num_skipped <= self.max_skipped:
            return "skip"
        if self._copy is not None and self.num_back < MAX_BACK:
            self.num_back += 1
            self.num_skipped = 0
            return "back"
        what = f"the loss spikes since step {step - self.max_skipped}" if is_sound else ""
        raise QualityError(
            what or f"the loss is not finite since step {step - self.max_skipped}",
            why=f"loss {loss:.4g}, gradient norm {norm:.4g}"
            + (f", {z:.1f} deviations above the last losses" if is_sound else "")
            + (f", and going back to step {self._copy.step} {MAX_BACK} times did not help" if self._copy else ""),
            hint="a smaller `train.optim.rate`, a longer `train.optim.warmup`, or look at the rows the ledger names",
        )

    def z(self, loss: float) -> float:
        """How many robust deviations a loss is above the last ones; 0 while too few are known."""
        if len(self._losses) < MIN_SEEN:
            return 0.0
        median = statistics.median(self._losses)
        deviation = 1.4826 * statistics.median(abs(each - median) for each in self._losses)
        return (loss - median) / max(deviation, FLOOR * abs(median), 1e-12)

    def keep(self, copy: Copy) -> None:
        """Have something to go back to. A good moment is just before the update of a step that is learned from: its loss has
        shown the weights to be sound."""
        self._copy, self.num_back = copy, 0

    def back(self) -> int:
        """Set the state to the copy, and tell after how many steps it was taken."""
        if self._copy is None:
            raise QualityError("there is no copy to go back to", hint="`train.optim.spike` above 0 keeps one")
        self._copy.restore()
        return self._copy.step

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: numbers. The copy is not among them: a resumed run soon takes one."""
        return {"losses": list(self._losses), "num_skipped": self.num_skipped}

    def load(self, state: dict[str, Any]) -> None:
        """The way back."""
        self._losses.clear()
        self._losses.extend(state["losses"])
        self.num_skipped = int(state["num_skipped"])


class Whole:
    """All of a guard, its copy too: what somebody needs who joins a run that goes on, as he must go back when the others do.

    Parameters
    ----------
    take : makes a copy of what is trained here, to be overwritten.
    """

    def __init__(self, guard: Guard, take: Callable[[], Copy]) -> None:
        self._guard, self._take = guard, take

    def state(self) -> dict[str, Any]:
        """As that of a checkpoint, and the copy."""
        copy = self._guard._copy
        return {
            **self._guard.state(), "num_back": self._guard.num_back, "copy": copy.state() if copy is not None else None
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """The way back."""
        self._guard.load(state)
        self._guard._copy = None
        if state["copy"] is not None:
            copy = self._take()
            copy.load(state["copy"])
            self._guard.keep(copy)
        self._guard.num_back = int(state["num_back"])


class Copy:
    """Values of a model, its optimizer and its strategy after so many steps; each rank copies what it holds.

    Parameters
    ----------
    more : further tensors that training changes.
    """

    def __init__(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, strategy: Strategy, more: Iterable[Tensor] = ()
    ) -> None:
        self.step, self._model, self._optimizer, self._strategy, self._more = step, model, optimizer, strategy, list(more)
        self._values = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        self._state = cloned(strategy.state())

    def _tensors(self) -> dict[str, Tensor]:
        """What is copied, by names that are the same for whoever trains the same."""
        found: dict[str, Tensor] = {f"model.{name}": param for name, param in self._model.named_parameters()}
        found |= {f"model.{name}": buffer for name, buffer in self._model.named_buffers()}
        params = [param for group in self._optimizer.param_groups for param in group["params"]]
        for number, param in enumerate(params):
            for slot, each in self._optimizer.state.get(param, {}).items():
                if isinstance(each, Tensor):
                    found[f"optimizer.{number}.{slot}"] = each
        return found | {f"more.{number}": each for number, each in enumerate(self._more)}

    @torch.no_grad()
    def restore(self) -> None:
        """Write the values back; moments that did not exist then begin anew."""
        for name, tensor in self._tensors().items():
            if (value := self._values.get(name)) is None:
                tensor.zero_()
            else:
                tensor.copy_(value)
        self._strategy.load(cloned(self._state))

    def state(self) -> dict[str, Any]:
        """All of it."""
        return {"step": self.step, "values": self._values, "strategy": self._state}

    def load(self, state: dict[str, Any]) -> None:
        """Be another one's copy."""
        self.step, self._values, self._state = int(state["step"]), dict(state["values"]), state["strategy"]


def cloned(state: Any) -> Any:
    """A state with copies of its tensors."""
    if isinstance(state, dict):
        return {name: cloned(value) for name, value in state.items()}
    return state.detach().clone() if isinstance(state, Tensor) else state
