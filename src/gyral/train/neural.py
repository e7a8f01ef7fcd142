"""The trainer of families that learn by gradients: plan the steps, start the ranks, follow them, hand over what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gyral.config import Config
from gyral.engine import ranks
from gyral.errors import RankError
from gyral.files import write_atomic
from gyral.lake.dataset import Dataset
from gyral.model.card import WEIGHTS, read_weights, write_weights
from gyral.run import Run
from gyral.train import resume, saved
from gyral.train.fitted import Fitted
from gyral.train.saved import LEDGER

CHECKPOINT_S = 60.0
"""Between two checkpoints, where nothing else is asked, at the nominal rate."""
NOMINAL_FLOP_PER_S = 30e9
"""What a rank is taken to compute when a budget is turned into steps: by the clock, two runs would not be equal."""


def fit(root: Path, data: Dataset, config: Config, run: Run, budget_s: float) -> Fitted:
    """Train, by as many ranks as the mesh has, and read back what the first one wrote."""
    from gyral.train.checkpoint import versions
    from gyral.train.parallel import limits, mesh
    from gyral.train.rank import RESULT, Job, Result, publishable, work
    from gyral.train.tasks import open_task

    axes = mesh.parse(config.train.parallel)
    num = mesh.num_ranks(axes)
    folder = run.folder
    task = open_task(root, data.name, config)
    sample = task.build(config.train.seed)
    flops = task.flops(sample) * config.train.batch
    found = saved.newest(folder, run.note)
    steps = found.manifest.pins.steps if found else config.train.steps or planned_steps(flops, budget_s, num)
    job = Job(
        str(root.resolve()), data.name, str(folder), steps, config, found.manifest.step if found else 0,
        config.train.checkpoint_every or planned_steps(flops, CHECKPOINT_S, num), resume.pins_of(data, config, steps),
        versions(),
    )  # fmt: skip
    meter = run.meter(task.unit, steps * config.train.batch * task.unit_per_row)
    done = config.train.batch * task.unit_per_row

    def tell(step: Any) -> None:
        values = {"loss": step.loss, "norm": step.norm, "rate": step.rate, **step.metrics}
        run.metric("step", step=step.step, members=step.members, seconds=step.seconds, **values)
        meter.update((step.step + 1) * done, loss=step.loss)

    seen = _Follower(folder / LEDGER, tell)
    seen.look()  # at what a run that is gone on from has done
    try:
        if num == 1:
            trained = work(job, lambda step, _: tell(step))
            write_weights(folder, publishable(trained))
            result = trained.result
        else:
            for note in limits.check(task, sample, axes, config.train):
                run.note(note)
            path, meet = folder / "job.json", folder / "meet"
            write_atomic(path, msgspec.json.encode(job))
            where = {"GYRAL_MEET": f"file://{meet.resolve()}"}
            ranks.launch(["-m", "gyral.train.rank", str(path)], num, folder, where, seen.look)
            seen.look()
            meet.unlink(missing_ok=True)
            result = msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    except BaseException as error:
        if saved.steps_of(folder):
            run.resume_as = run.number
            if isinstance(error, RankError):
                error.hint = f"continue with `gyral train --resume {run.number}`; {error.hint}"
        raise
    weights = read_weights(folder)
    (folder / WEIGHTS).unlink()
    candidate = {"name": task.name, **result.metrics, "chosen": True}
    training = {"steps": result.steps, "loss": result.loss, "metrics": result.metrics, "ranks": result.ranks}
    return Fitted(weights, None, [candidate], "what was kept aside", training, task.files())


def planned_steps(flops: float, budget_s: float, num: int) -> int:
    """Steps of so many FLOPs that a budget pays by a nominal rate, one at least."""
    return max(1, int(budget_s * num * NOMINAL_FLOP_PER_S / max(flops, 1.0)))


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
