"""The trainer of families that learn by gradients: plan the steps, start the ranks, follow them, hand over what they made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gyral.config import NOMINAL_FLOP_PER_S, Config
from gyral.engine import ranks, ray_ranks
from gyral.errors import RankError
from gyral.files import write_atomic
from gyral.lake.dataset import Dataset
from gyral.model.card import WEIGHTS, find, read_card, read_weights, write_weights
from gyral.run import Run
from gyral.train import ranges, resume, saved, scale
from gyral.train.elastic import launch
from gyral.train.fitted import Fitted
from gyral.train.saved import LEDGER
from gyral.train.telling import Teller

if TYPE_CHECKING:
    from gyral.model.task import Task

CHECKPOINT_S = 60.0
"""Between two checkpoints, where nothing else is asked, at the nominal rate."""
STEP_FLOP = 1e8
FLOP_PER_UPDATED = 40.0
"""What a step costs beside its products: 3 ms, and 1.3 ns a parameter that is updated. Tables have many and multiply little."""


def fit(root: Path, data: Dataset, config: Config, run: Run, budget_s: float, task: Task | None = None) -> Fitted:
    """Train, by as many ranks as the mesh has, and read back what the first one wrote.

    Parameters
    ----------
    task : of this dataset and configuration, where somebody has opened it already.
    """
    be_quiet()
    from gyral.train import held_out, loop
    from gyral.train.checkpoint import versions
    from gyral.train.parallel import limits, mesh
    from gyral.train.rank import MEET, RESULT, Job, Result, publishable, work
    from gyral.train.tasks import open_task

    axes = mesh.parse(config.train.parallel)
    num = mesh.num_ranks(axes)
    folder = run.folder.resolve()  # ranks may be elsewhere
    pins, config = config, with_teacher(root, config, run)
    task = task or open_task(root, data.name, config)
    sample = task.build(config.train.seed)
    flops, size = cost_of(task, sample, config)
    found = saved.newest(folder, run.note)
    steps = found.manifest.pins.steps if found else config.train.steps or planned_steps(flops, size, budget_s, num)
    job = Job(
        str(root.resolve()), data.name, str(folder), steps, config, found.manifest.step if found else 0,
        config.train.checkpoint_every or planned_steps(flops, size, CHECKPOINT_S, num), resume.pins_of(data, pins, steps),
        versions(),
    )  # fmt: skip
    if (live := getattr(task, "live", None)) is not None:
        live.note = run.note
    teller = Teller(run, task, config, steps)
    steps_seen = _Follower(folder / LEDGER, loop.Step, teller.step)
    evaluations_seen = _Follower(folder / held_out.FILE, held_out.Evaluation, teller.evaluation)

    def look() -> None:
        steps_seen.look()
        evaluations_seen.look()

    look()  # at what a run that is gone on from has done
    try:
        if config.train.sync != "allreduce":
            result = _with_server(task, sample, job, look, run)
        elif num == 1 and "elastic" not in axes:
            trained = work(job, teller.step, teller.evaluation, task)
            write_weights(folder, publishable(trained))
            result = trained.result
        else:
            for note in limits.check(task, sample, axes, config.train):
                run.note(note)
            path, meet = folder / "job.json", folder / "meet"
            write_atomic(path, msgspec.json.encode(job))
            command = ["-m", "gyral.train.rank", str(path)]
            with ray_ranks.placing(config.on, run.note) as (start, host):
                if "elastic" in axes:
                    launch.supervised(command, num, folder, config, look, run.note, host=host, start=start)
                else:
                    ranks.launch(command, num, folder, {MEET: f"file://{meet.resolve()}"}, look, start)
                    meet.unlink(missing_ok=True)
            look()
            result = msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    except BaseException as error:
        if saved.steps_of(folder):
            run.resume_as = run.number
            if isinstance(error, RankError):
                error.hint = f"continue with `gyral train --resume {run.number}`; {error.hint}"
        raise
    weights = task.finished(read_weights(folder))
    (folder / WEIGHTS).unlink()
    candidate = {"name": task.name, **result.metrics, "chosen": True}
    training = {"steps": result.steps, "loss": result.loss, "metrics": result.metrics, "ranks": result.ranks}
    training["scale"] = scale.measured(task, sample, result.steps, config.train.batch, flops, pins)
    training |= {"server": result.server} if result.server else {}
    training |= teller.done(result)
    if live is not None:
        training["stream"] = told = ranges.Ranges(folder).told()
        data.manifest.rows_in, data.manifest.rows_kept = told["events"], told["documents"]
        run.note(
            f"stream   {told['documents']:,} documents in {told['ranges']:,} ranges, {told['examples']:,} examples of which "
            f"{told['unread']:,} are left; ended: {ENDED[told['ended']]}"
        )
    return Fitted(weights, None, [candidate], "what was kept aside", training, task.files(), task.metric)


def _with_server(task: Any, model: Any, job: Any, look: Callable[[], None], run: Run) -> Any:
    """Train by workers that meet on a parameter server."""
    from gyral.train import workers
    from gyral.train.rank import RESULT, Result

    train, folder = job.config.train, Path(job.folder)
    num, path = workers.num_workers(train), folder / "job.json"
    write_atomic(path, msgspec.json.encode(job))
    with (
        workers.shards(model, task.roles, train, folder, job.config.on) as address,
        ray_ranks.placing(job.config.on, run.note) as (start, _),
    ):
        workers.launch(path, train, num, folder, address, look, run.note, start)
    look()
    result = msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    staleness = result.server.get("staleness", {}).get("pushes", {})
    run.summarize(sync=train.sync, staleness=staleness)
    told = ", ".join(f"{value}: {count:,}" for value, count in staleness.items())
    run.note(f"server   {train.sync} of {num}; pushes of others between a pull and its push: {told or 'none'}")
    return result


def with_teacher(root: Path, config: Config, run: Run) -> Config:
    """The configuration with the very version of its teacher, which the run has read: all ranks are taught by the same."""
    if not config.train.distill:
        return config
    name = read_card(find(root, config.train.distill)).model
    run.reads("model", name)
    return msgspec.structs.replace(config, train=msgspec.structs.replace(config.train, distill=name))


def cost_of(task: Any, model: Any, config: Config) -> tuple[float, int]:
    """FLOPs of a step, and how many parameters each step updates, as `planned_steps` asks for them."""
    from gyral.train.parallel import limits

    size = sum(param.numel() for param in model.parameters())
    if config.train.optim.tables == "rowwise_adagrad":  # a step costs the rows it touches
        size -= limits.num_in_tables(model, task.roles)
    return task.flops(model) * config.train.batch, size


def planned_steps(flops: float, num_parameters: int, budget_s: float, num: int) -> int:
    """Steps that a budget pays by a nominal rate, one at least.

    Parameters
    ----------
    flops : of one step of all `num` ranks together; what each parameter's update costs, every rank pays.
    """
    shared = STEP_FLOP + FLOP_PER_UPDATED * num_parameters
    return max(1, int(budget_s * NOMINAL_FLOP_PER_S / (flops / num + shared)))


def seconds_of(steps: int, flops: float, num_parameters: int) -> float:
    """Nominal seconds of some steps of one rank, as `planned_steps` reckons them."""
    return steps * (flops + STEP_FLOP + FLOP_PER_UPDATED * num_parameters) / NOMINAL_FLOP_PER_S


def be_quiet() -> None:
    """Have OpenMP's threads sleep while they wait; only before torch is loaded, which reads this once.

    With a neighbour on one of two cores, two threads that spin computed a tenth of what they do alone, and half of it when they
    sleep; without one it is the same.
    """
    if "torch" not in sys.modules:
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            os.environ.setdefault(name, ranks.QUIET[name])


ENDED = {"idle": "nothing new came", "steps": "all steps are done", "": "not written"}


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
