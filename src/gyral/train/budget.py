"""`--budget` by the project's own law: how large a model, on how much, in how many steps.

The runs that were trained as this one is to be (same family, task, dataset, rate, batch and schedule, and all else that changes
what is learned) are fitted as `gyral law allocate` fits them. Each step of the family's ladder of sizes is counted, given as
many steps as the budget pays by a nominal rate, and the one that the law foretells the least loss of is trained. Nothing is
asked of the clock: the same table of runs, data, configuration and budget choose the same. Sizes or data beyond four times what
was tried are not chosen.

An exponent of the best size that the runs do not pin down refuses nothing by itself: what is asked is one size of the ladder,
and where losses are flat about it a wrong one costs little. So it refuses only where a fifth of the bootstraps of all laws have
a size that ends half a per cent below the chosen one; `benchmarks/law/excess.py` holds that against budgets held out.

Where no run of the table saw its data twice, data that is repeated is assumed to be worth what
`law.mixture_allocate.REPEATS` says.

A setting that somebody gave stands, and the others are chosen around it; where `train.steps` is given, or training begins from
a model, nothing is chosen. Where the runs are too few, or a stop rule refuses a point (`gyral.law.allocate.REFUSING`), the
configuration's sizes are trained, and one line says what is lacking.

What was chosen is written into the run's configuration, which pins it for `--resume`, and with the prediction into
`budget.json`; the card has both beside what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from gyral.config import Config, changed, with_values
from gyral.errors import GyralError, InputError
from gyral.files import write_atomic
from gyral.lake.dataset import Dataset
from gyral.law import intervals, runs
from gyral.law.allocate import FLAT, REFUSING
from gyral.law.choose import Law, choose
from gyral.law.mixture_allocate import left_of
from gyral.law.places import runs_of
from gyral.law.sweep import stops
from gyral.model import card as cards
from gyral.run import Run
from gyral.train import scale, shapes
from gyral.train.fitted import Fitted
from gyral.train.neural import be_quiet, planned_steps
from gyral.train.saved import CHOSEN
from gyral.train.shapes import Sized

if TYPE_CHECKING:
    from gyral.model.task import Task

BEYOND = 4.0
"""A model is neither smaller than the least that was tried, nor sees less, by more than this factor."""
BOOTSTRAPS = 100
LIKELY = 0.8
"""Of bootstraps, that have the chosen size within `FLAT[-1]` of their best loss, where the exponent is not known."""


class Choice(NamedTuple):
    """What a budget is to be spent on.

    Attributes
    ----------
    config : with the sizes that were chosen.
    told : plain values: `chosen`, `N`, `D`, `epochs`, `steps`, `C`, `loss`, `loss_80`, `flat`, `form`, `rows`, `metric`, …;
        `chosen` and `from` of who begins from another model; `refused`: why nothing is chosen; empty: nothing was to be.
    task : what is trained, where it was opened to choose: to read a dataset takes as long as to begin a training.
    """

    config: Config
    told: dict[str, Any]
    task: Task | None = None


def settle(root: Path, data: Dataset, config: Config, run: Run, budget_s: float, given: Collection[str] | None) -> Choice:
    """What is trained: where the project's law says the sizes, with them; else the configuration as it is.

    Parameters
    ----------
    given : dotted names of the settings that stand; None: those that are not at their default.
    """
    found = choice_of(root, data, config, budget_s, given)
    if refused := found.told.get("refused"):
        run.note(f"budget   sizes are those of the configuration: {refused}")
    elif found.told:
        if "loss" in found.told:
            run.note(f"budget   {text(found.told)}")
        run.settle(found.config)
        run.summarize(budget=found.told)
        write_atomic(run.folder / CHOSEN, msgspec.json.encode(found.told))
    return found


def choice_of(root: Path, data: Dataset, config: Config, budget_s: float, given: Collection[str] | None) -> Choice:
    """What the law chooses, or `refused` with the reason; nothing is told where nothing is to be chosen."""
    given = changed(config) if given is None else given
    if config.train.start:
        return _as_begun(root, config, given)
    if config.train.steps or len(shapes.ladder(config, given)) < 2:
        return Choice(config, {})
    try:
        return _by_law(root, data, config, budget_s, given)
    except InputError as error:
        why = f" ({error.why})" if error.why else ""
        return Choice(config, {"refused": f"{error.what}{why}; {error.hint}"})


def _as_begun(root: Path, config: Config, given: Collection[str]) -> Choice:
    """Who begins from a model whose sizes were chosen has these sizes."""
    try:
        first = cards.read_card(cards.find(root, config.train.start))
    except GyralError:  # a folder of another library
        return Choice(config, {})
    values = {key: value for key, value in first.training.get("budget", {}).get("chosen", {}).items() if key not in given}
    return Choice(with_values(config, values), {"chosen": values, "from": first.model} if values else {})


def _by_law(root: Path, data: Dataset, config: Config, budget_s: float, given: Collection[str]) -> Choice:
    """The best of the ladder, by the law of the runs that were trained alike.

    Raises
    ------
    InputError : they carry no law; what they lack, and what would mend it.
    """
    law, metric = law_of(root, data.name, config)
    be_quiet()
    from gyral.train.parallel import mesh
    from gyral.train.tasks import open_task

    task = open_task(root, data.name, config)
    num = mesh.num_ranks(mesh.parse(config.train.parallel))
    steps = [each for each in (shapes.sized(task, config, one) for one in shapes.ladder(config, given)) if each is not None]
    num_steps = [planned_steps(each.flops, each.updated, budget_s, num) for each in steps]
    asked = _asked(steps, num_steps, config.train.batch * task.unit_per_row, task.num_rows * task.unit_per_row)
    seen_n, unique_n = asked["D"], asked["D_unique"]
    if "D_unique" not in law.axes:  # no run has repeated its data
        asked["D"] = left_of(seen_n, unique_n)
    table = law.table.columns
    is_near = (asked["N"] >= table["N"].min() / BEYOND) & (seen_n >= table["D"].min() / BEYOND)
    if not is_near.any():
        why = f"the least model that was tried, on the least data, takes {float(law.table.axis().min()):.2g} FLOP"
        raise InputError("the budget buys no model like those that were tried", why=why, hint="a larger budget")
    loss = np.where(is_near, law.predict(asked), math.inf)
    i = int(loss.argmin())
    best = {name: column[[i]] for name, column in asked.items()}
    near = {name: column[is_near] for name, column in asked.items()}
    _refuse(law, near, int(is_near[:i].sum()), data.name, config)
    low, high = intervals.percentiles(law.sample(best, BOOTSTRAPS)[:, 0], 0.8)
    flat = {f"{share:g}": asked["N"][loss <= loss[i] * (1 + share)] for share in FLAT}
    return Choice(
        steps[i].config,
        {
            "chosen": steps[i].values, "N": steps[i].N, "N_non_embedding": steps[i].N_non_embedding,
            "D": float(seen_n[i]), "epochs": float(seen_n[i] / unique_n[i]), "unit": task.unit,
            "steps": num_steps[i], "C": float(best["C"][0]),
            "loss": float(loss[i]), "loss_80": [min(low, float(loss[i])), max(high, float(loss[i]))], "metric": metric,
            "flat": {share: [float(sizes.min()), float(sizes.max())] for share, sizes in flat.items()},
            "form": law.best.form.name, "rows": len(law.table), "reach": float(law.reach(best)[0]),
        },
        shapes.opened_for(task, steps[i].config),
    )  # fmt: skip


def _asked(steps: Sequence[Sized], num_steps: Sequence[int], units: int, unique: int) -> dict[str, np.ndarray]:
    """Columns of a law; sizes without embeddings, by which small models compare."""
    seen = np.array(num_steps, np.float64) * units
    return {
        "N": np.array([each.N_non_embedding for each in steps], np.float64),
        "D": seen,
        "D_unique": np.minimum(seen, unique) if unique else seen,
        "C": np.array([each.flops * num for each, num in zip(steps, num_steps, strict=True)]),
    }


def law_of(root: Path, dataset: str, config: Config) -> tuple[Law, str]:
    """The law of the runs that were trained alike, N without embeddings, and what its losses are of.

    Parameters
    ----------
    dataset : with its version, which is not looked at: runs on an older one count.

    Raises
    ------
    InputError : they are too few, or no form fits them.
    """
    path = runs_of(root)
    kind = f"{config.train.family}/{config.train.task or 'default'} {dataset.partition('@')[0]}"
    how = scale.trained_as(config)  # what a row that was brought from elsewhere does not say is not held against it
    found = runs.load(path).to_pylist() if path.exists() else []
    found = [row for row in found if str(row.get("group")).partition("@")[0] == kind]
    rows = [row for row in found if all(row.get(name) in (None, value) for name, value in how.items())]
    metric = str(rows[-1].get("metric")) if rows else ""
    rows = [row | {"N": row.get("N_non_embedding") or row["N"]} for row in rows if str(row.get("metric")) == metric]
    hint = f"{_remedy(dataset, config)} makes runs"
    if len(rows) < runs.LEAST_ROWS:
        what = f"{len(rows)} runs like this one are in the table, too few for a law"
        raise InputError(what, where=str(path), hint=hint)
    try:
        law = choose(runs.table_of(pa.Table.from_pylist(rows), {}, str(path)))
    except InputError as error:
        raise InputError(error.what, why=error.why, where=str(path), hint=hint) from None
    if math.isnan(law.error):
        raise InputError(f"of {len(rows)} runs none could be held out and foretold", where=str(path), hint=hint)
    return law, metric


def _refuse(law: Law, near: Mapping[str, np.ndarray], i: int, dataset: str, config: Config) -> None:
    """Raise where a stop rule lets no point be told; an exponent that is not known is none where size `i` costs little."""
    best, member = law.best, law.members[0]
    width = intervals.width_of_size(best, intervals.bootstrap(best, member.rows, law.table.run, BOOTSTRAPS))
    target = {name: column[[i]] for name, column in near.items()}
    refused = [each for each in stops(law, target, width) if each.rule in REFUSING]
    if any(each.rule == "wide" for each in refused):
        excess = law.excess(near, i, LIKELY, BOOTSTRAPS)
        what = f", and the size that would be chosen may end {excess:.1%} above the best"
        refused = [each._replace(what=each.what + what) if each.rule == "wide" else each for each in refused]
        refused = [each for each in refused if each.rule != "wide" or excess > FLAT[-1]]
    if refused:
        first = refused[0]
        what = f"{len(law.table)} runs carry no law ({'; '.join(f'{each.rule}: {each.what}' for each in refused)})"
        hint = f"next: {first.next}; {_remedy(dataset, config)} makes runs"
        raise InputError(what, hint=hint)


def _remedy(dataset: str, config: Config) -> str:
    task = f" --set train.task={config.train.task}" if config.train.task else ""
    return f"`gyral law sweep {dataset.partition('@')[0]} --family {config.train.family}{task} --budget 5m`"


def hold_against(fitted: Fitted, metric: str, run: Run) -> None:
    """What was chosen for a run and what it ended with: into its card, and told."""
    path = run.folder / CHOSEN
    if not path.exists():
        return
    choice = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    fitted.training["budget"] = choice
    if "loss" not in choice:  # sizes of the model that it began from
        return
    found = next(each for each in fitted.candidates if each["chosen"])
    choice["ended"], metric = scale.ended(found | fitted.training["metrics"], metric)
    low, high = choice["loss_80"]
    inside = "inside" if low <= choice["ended"] <= high else "outside"
    off = choice["ended"] / choice["loss"] - 1
    run.note(f"budget   {metric} {choice['ended']:.4g}, {off:+.1%} from what was foretold, {inside} its 80 % interval")


def text(choice: Mapping[str, Any]) -> str:
    """A choice for a person."""
    sizes = ", ".join(f"{name} = {value}" for name, value in choice["chosen"].items())
    (low, high), (least, most) = choice["loss_80"], choice["flat"][f"{FLAT[-1]:g}"]
    return (
        f"{sizes} by the law of {choice['rows']} runs: N = {choice['N_non_embedding']:,} without embeddings, "
        f"{choice['D']:,.0f} {choice['unit']} ({choice['epochs']:.3g} epochs), {choice['steps']:,} steps; "
        f"{choice['metric']} {choice['loss']:.4g}, 80 %: {low:.4g} to {high:.4g}; "
        f"within {FLAT[-1]:.1%} of it N from {least:,.0f} to {most:,.0f}"
    )
