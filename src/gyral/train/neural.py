"""The trainer of families that learn by gradients: plan the steps, start the ranks, follow them, hand over what they made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gyral.config import Config
from gyral.engine import ranks
from gyral.files import write_atomic
from gyral.lake.dataset import Dataset
from gyral.model.card import WEIGHTS, read_weights, write_weights
from gyral.run import Run
from gyral.train.fitted import Fitted
from gyral.train.telling import Teller

NOMINAL_FLOP_PER_S = 30e9
"""What a rank is taken to compute when a budget is turned into steps: by the clock, two runs would not be equal."""


def fit(root: Path, data: Dataset, config: Config, run: Run, budget_s: float) -> Fitted:
    """Train, by as many ranks as the mesh has, and read back what the first one wrote."""
    be_quiet()
    from gyral.train import held_out, loop
    from gyral.train.parallel import mesh
    from gyral.train.rank import LEDGER, RESULT, Job, Result, publishable, work
    from gyral.train.tasks import open_task

    axes = mesh.parse(config.train.parallel)
    num = mesh.num_ranks(axes)
    folder = run.folder
    task = open_task(root, data.name, config)
    steps = config.train.steps or planned_steps(task, config, budget_s, num)
    job = Job(str(root.resolve()), data.name, str(folder), steps, config)
    teller = Teller(run, task, config, steps)

    if num == 1:
        trained = work(job, lambda step, _: teller.step(step), teller.evaluation)
        write_weights(folder, publishable(trained))
        result = trained.result
    else:
        path = folder / "job.json"
        write_atomic(path, msgspec.json.encode(job))
        steps_seen = _Follower(folder / LEDGER, loop.Step, teller.step)
        evaluations_seen = _Follower(folder / held_out.FILE, held_out.Evaluation, teller.evaluation)

        def look() -> None:
            steps_seen.look()
            evaluations_seen.look()

        meet = folder / "meet"
        ranks.launch(["-m", "gyral.train.rank", str(path)], num, folder, {"GYRAL_MEET": f"file://{meet.resolve()}"}, look)
        look()
        meet.unlink(missing_ok=True)
        result = msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    weights = read_weights(folder)
    (folder / WEIGHTS).unlink()
    candidate = {"name": task.name, **result.metrics, "chosen": True}
    training = {"steps": result.steps, "loss": result.loss, "metrics": result.metrics, "ranks": result.ranks}
    training |= teller.done(result)
    return Fitted(weights, None, [candidate], "what was kept aside", training, task.files())


def planned_steps(task: Any, config: Config, budget_s: float, num: int) -> int:
    """Steps that a budget pays by a nominal rate, one at least."""
    flops = task.flops(task.build(config.train.seed)) * config.train.batch
    return max(1, int(budget_s * num * NOMINAL_FLOP_PER_S / max(flops, 1.0)))


def be_quiet() -> None:
    """Have OpenMP's threads sleep while they wait; only before torch is loaded, which reads this once.

    With a neighbour on one of two cores, two threads that spin computed a tenth of what they do alone, and half of it when they
    sleep; without one it is the same.
    """
    if "torch" not in sys.modules:
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            os.environ.setdefault(name, ranks.QUIET[name])


class _Follower:
    """Reads a file of records as it grows."""

    def __init__(self, path: Path, kind: Any, tell: Callable[[Any], None]) -> None:
        self._path, self._kind, self._tell, self._at = path, kind, tell, 0

    def look(self) -> None:
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                self._tell(msgspec.json.decode(line, type=self._kind))
