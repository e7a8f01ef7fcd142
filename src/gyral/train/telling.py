"""What a run by gradients tells while it goes and when it is done: to the screen, to `metrics.jsonl`, to its summary.

One line of type `step` for each step and one of type `held_out` for each evaluation, from which the run's page and `gyral show
--export` draw; at the end units a second, memory, and the share of the peak that was measured when the run began (MFU).
"""

from __future__ import annotations

from typing import Any

import msgspec

from gyral.config import Config
from gyral.run import Run


class Teller:
    """Follows one run; works with any `Step`, `Evaluation` and `Result`, so that torch need not be loaded for it."""

    def __init__(self, run: Run, task: Any, config: Config, steps: int) -> None:
        self._run, self._unit, self._precision = run, task.unit, config.train.precision
        self._units = config.train.batch * task.unit_per_row
        self._meter = run.meter(task.unit, steps * self._units)

    def step(self, step: Any) -> None:
        """A step is done."""
        more = {} if not step.skipped else {"skipped": True} | ({} if step.back is None else {"back": step.back})
        self._run.metric(
            "step", step=step.step, members=step.members, seconds=step.seconds, loss=step.loss, norm=step.norm, rate=step.rate,
            **step.metrics, **more,
        )  # fmt: skip
        self._meter.update((step.step + 1) * self._units, loss=step.loss)

    def evaluation(self, evaluation: Any) -> None:
        """The model was measured."""
        self._run.metric("held_out", step=evaluation.step, is_best=evaluation.is_best, **evaluation.metrics)

    def done(self, result: Any) -> dict[str, Any]:
        """The run is over: a line for a person, and what the card keeps."""
        facts = cost(result, self._units, self._precision)
        self._run.summarize(
            **{f"{self._unit}_per_s": facts["units_per_s"], "share_of_peak": facts["mfu"], "memory_bytes": result.memory_bytes}
        )
        self._run.note(
            f"train    {facts['units_per_s']:,.0f} {self._unit}/s, {facts['flop_per_s'] / 1e9:,.1f} GFLOP/s: "
            f"{100 * facts['mfu']:.0f} % of the {facts['peak_flop_per_s'] / 1e9:,.0f} that {_ranks(result)} can do in "
            f"{facts['precision']}; {result.memory_bytes / 1e6:,.0f} MB a rank"
        )
        if result.best_step != result.steps:
            self._run.note(f"train    kept the weights of step {result.best_step:,}, the best of those evaluated")
        return {"hardware": {**msgspec.to_builtins(result.peak), **facts}, "best_step": result.best_step}


def cost(result: Any, units: int, precision: str) -> dict[str, Any]:
    """How fast the steps of a run were, evaluations not counted.

    Parameters
    ----------
    units : that a step of all ranks counts.
    """
    done = "bf16" if precision == "bf16" else "f32"
    steps_per_s = result.stepped / max(result.stepping_s, 1e-9)
    flop_per_s, peak = result.flops * steps_per_s, result.peak.of(done) * result.ranks
    return {
        "units_per_s": steps_per_s * units,
        "flop_per_s": flop_per_s,
        "peak_flop_per_s": peak,
        "mfu": flop_per_s / peak if peak else 0.0,
        "precision": done,
        "memory_bytes": result.memory_bytes,
    }


def _ranks(result: Any) -> str:
    threads = f"{result.peak.threads} thread" + ("" if result.peak.threads == 1 else "s")
    return threads if result.ranks == 1 else f"{result.ranks} ranks of {threads}"
