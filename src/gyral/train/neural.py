"""The trainer of families that learn by gradients: plan the steps, start the ranks, follow them, hand over what they made."""

from __future__ import annotations

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

NOMINAL_FLOP_PER_S = 30e9
"""What a rank is taken to compute when a budget is turned into steps: by the clock, two runs would not be equal."""
STEP_FLOP = 1e8
FLOP_PER_UPDATED = 40.0
"""What a step costs beside its products: 3 ms, and 1.3 ns a parameter that is updated. Tables have many and multiply little."""


def fit(root: Path, data: Dataset, config: Config, run: Run, budget_s: float) -> Fitted:
    """Train, by as many ranks as the mesh has, and read back what the first one wrote."""
    from gyral.train.parallel import mesh
    from gyral.train.rank import LEDGER, RESULT, Job, Result, publishable, work
    from gyral.train.tasks import open_task

    axes = mesh.parse(config.train.parallel)
    num = mesh.num_ranks(axes)
    folder = run.folder
    task = open_task(root, data.name, config)
    steps = config.train.steps or planned_steps(task, config, budget_s, num)
    job = Job(str(root.resolve()), data.name, str(folder), steps, config)
    meter = run.meter(task.unit, steps * config.train.batch * task.unit_per_row)
    done = config.train.batch * task.unit_per_row

    def tell(step: Any) -> None:
        values = {"loss": step.loss, "norm": step.norm, "rate": step.rate, **step.metrics}
        run.metric("step", step=step.step, members=step.members, seconds=step.seconds, **values)
        meter.update((step.step + 1) * done, loss=step.loss)

    if num == 1:
        trained = work(job, lambda step, _: tell(step))
        write_weights(folder, publishable(trained))
        result = trained.result
    else:
        path = folder / "job.json"
        write_atomic(path, msgspec.json.encode(job))
        seen = _Follower(folder / LEDGER, tell)
        meet = folder / "meet"
        ranks.launch(["-m", "gyral.train.rank", str(path)], num, folder, {"GYRAL_MEET": f"file://{meet.resolve()}"}, seen.look)
        seen.look()
        meet.unlink(missing_ok=True)
        result = msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    weights = read_weights(folder)
    (folder / WEIGHTS).unlink()
    candidate = {"name": task.name, **result.metrics, "chosen": True}
    training = {"steps": result.steps, "loss": result.loss, "metrics": result.metrics, "ranks": result.ranks}
    return Fitted(weights, None, [candidate], "what was kept aside", training, task.files())


def planned_steps(task: Any, config: Config, budget_s: float, num: int) -> int:
    """Steps that a budget pays by a nominal rate, one at least."""
    model = task.build(config.train.seed)
    flops = task.flops(model) * config.train.batch
    shared = STEP_FLOP + FLOP_PER_UPDATED * sum(each.numel() for each in model.parameters())  # what more ranks do not share
    return max(1, int(budget_s * NOMINAL_FLOP_PER_S / (flops / num + shared)))


class _Follower:
    """Reads the ledger as it grows."""

    def __init__(self, path: Path, tell: Any) -> None:
        self._path, self._tell, self._at = path, tell, 0

    def look(self) -> None:
        from gyral.train.loop import Step

        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                self._tell(msgspec.json.decode(line, type=Step))
