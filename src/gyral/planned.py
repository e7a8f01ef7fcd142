"""`--plan`: what a verb would take, before it is done. Nothing is written, nothing is started.

Every number says where it is from. What nobody has measured here is assumed, wide, and named, so that a reader knows which
measurement would narrow it: `gyral doctor --probe` for seconds of a training, `gyral bench serve` for those of an answer,
`gyral law fit` for what a training ends with. What the other verbs take is told by the project's own runs (`gyral.plan.past`).

Tools have no plan: `show`, `dash` and `doctor` take what a look takes, `eval`, `erase` and `law` seconds for what lies there,
`bench` as long as it is told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gyral.config import Config
from gyral.errors import GyralError
from gyral.plan.figure import Figure, Plan

if TYPE_CHECKING:
    from gyral.lake.dataset import Dataset
    from gyral.plan.cost import Bill
    from gyral.plan.verbs import Asked

NOMINAL_OFF = 3.0
"""A machine that nobody has probed computes within this factor of the nominal rate, in four of five cases."""
PRODUCT = (256, 256, 256)
"""Of which the rate stands for all of a model that is not planned part by part."""
ADAM_BYTES = 16
"""Of a parameter: weight, gradient, and two means, in float32."""


def train(root: Path, dataset: str, config: Config, given: Collection[str] | None = None) -> Plan:
    """What a training would take: of a neural model with the sizes that the project's law would choose, or in closed form.

    Parameters
    ----------
    given : settings that stand, as `gyral.train.trainer.train` has it.

    Raises
    ------
    NotFound : there is no such dataset.
    """
    from gyral.config import NOMINAL_FLOP_PER_S, budget_seconds
    from gyral.train import budget, scale
    from gyral.train.neural import cost_of, planned_steps
    from gyral.train.readers import folder
    from gyral.train.tasks import open_task

    data = folder.find(root, dataset)
    if config.train.family == "recommender" and not config.train.task:
        return _in_closed_form(root, data, config)
    choice = budget.choice_of(root, data, config, budget_seconds(config.train.budget), given)
    config = choice.config
    task = choice.task or open_task(root, data.name, config)
    model = task.build(config.train.seed)
    flops, updated = cost_of(task, model, config)
    steps = config.train.steps or planned_steps(flops, updated, budget_seconds(config.train.budget), 1)
    found = scale.measured(task, model, steps, config.train.batch, flops, config)
    size, unit = found["N"], found["unit"]
    no_law = f"; no law chose it: {choice.told['refused']}" if "refused" in choice.told else ""
    by_law = choice.told.get("chosen", {}) if "loss" in choice.told else {}
    plan: Plan = {name: Figure(float(value), "", "calibrated", budget.text(choice.told)) for name, value in by_law.items()}
    plan |= {
        "parameters": Figure(float(size), "", "counted", f"of the model that would be built{no_law}"),
        "without embeddings": Figure(float(found["N_non_embedding"]), "", "counted", "the same"),
        "steps": Figure(float(steps), "", "counted", "train.steps, or what the budget pays by a nominal rate"),
        f"{unit} seen": Figure(float(found["D"]), unit, "counted", "steps · batch"),
        "epochs": Figure(found["D"] / found["D_unique"], "", "counted", f"of {found['D_unique']:,} {unit}"),
        "compute": Figure(float(found["C"]), "FLOP", "counted", "by the roles of the parameters, forwards and backwards"),
        "states": Figure(float(ADAM_BYTES * size), "bytes", "counted", "weights, gradients and AdamW's means in float32"),
    }
    plan["step"] = _step(root, task, config, flops, NOMINAL_FLOP_PER_S)
    low, high = plan["step"].interval
    step = plan["step"]
    plan["training"] = Figure(steps * step.value, "s", step.by, f"steps · {step.why}", steps * low, steps * high)
    plan |= _foretold(choice.told) if by_law else _ends_with(root, data.name, config, found)
    return plan


def _in_closed_form(root: Path, data: Dataset, config: Config) -> Plan:
    """Which candidates the budget pays is counted, as they are planned; what that takes, earlier trainings say."""
    from gyral.config import budget_seconds
    from gyral.plan.kinds import TRAIN
    from gyral.plan.past import foretold, seen
    from gyral.train.recommender import shared

    has = shared(data, config, budget_seconds(config.train.budget))
    pays, nets_s = has.planned(), has.net_s + has.ranker_s
    plan: Plan = {
        "rows": Figure(float(len(has.rows)), "rows", "counted", f"of `{data.name}`"),
        "asked": Figure(float(len(has.split.asked)), "subjects", "counted", "by each candidate, of the last rows"),
        "candidates": Figure(float(pays.candidates), "", "counted", "closed forms that the budget pays, at most"),
        "dense part": Figure(float(pays.num_head), "objects", "counted", f"of {has.interactions.num_objects:,}"),
        "paid": Figure(pays.nominal_s + nets_s, "s", "counted", f"of the budget of `{config.train.budget}`, nominal"),
    }
    if nets_s:
        plan["nets"] = Figure(nets_s, "s", "counted", "of it, for nets beside the closed forms, nominal")
    return plan | foretold(TRAIN, pays.nominal_s + nets_s, seen(root, TRAIN))


def _step(root: Path, task: Any, config: Config, flops: float, nominal: float) -> Figure:
    """Seconds of a step of one rank: by the probe of this machine where there is one and the model is one that plans know."""
    from gyral.plan import counters, probe
    from gyral.plan.axes import ADAM, Layout
    from gyral.plan.steptime import step_time

    try:
        machine = probe.Measured(probe.load(root))
    except GyralError:
        seconds = flops / nominal
        why = f"{nominal / 1e9:.0f} GFLOP/s, nominal; `gyral doctor --probe` measures this machine"
        return Figure(seconds, "s", "assumed", why, seconds / NOMINAL_OFF, seconds * NOMINAL_OFF)
    if config.train.family == "lm":
        known = counters.gpt2 if config.lm.layout == "gpt2" else counters.llama
        layout = Layout(batch=config.train.batch, microbatch=config.train.microbatch or config.train.batch)
        return (
            step_time(known(task.shape, task.length), layout, machine, ADAM)
            .figure("measured")
            ._replace(why="from the probe of one core of this machine; 10 % off on average here")
        )
    rate = machine.probe.rate(*PRODUCT, "f32")
    seconds = flops / rate
    why = f"{rate / 1e9:.0f} GFLOP/s of one core, as probed; this kind of model is not planned part by part"
    return Figure(seconds, "s", "assumed", why, seconds / NOMINAL_OFF, seconds * NOMINAL_OFF)


def _foretold(told: Mapping[str, Any]) -> Plan:
    """The loss that the law foretells of the sizes it chose."""
    why = f"{told['form']} through {told['rows']} runs, {told['reach']:.1f} decades beyond the largest"
    return {"loss": Figure(told["loss"], "", "calibrated", why, *told["loss_80"])}


def _ends_with(root: Path, dataset: str, config: Config, found: Mapping[str, Any]) -> Plan:
    """The loss, where this project's runs of this kind carry a law."""
    from gyral.law.places import runs_of

    path = runs_of(root)
    if not path.exists():
        return {}
    import numpy as np

    from gyral.law import intervals, runs
    from gyral.law.choose import choose

    group = f"{config.train.family}/{config.train.task or 'default'} {dataset}"
    try:
        law = choose(runs.read(path, where={"group": group}))
        asked = {name: np.array([float(found[name])]) for name in ("N", "D", "D_unique", "C")}
        value = float(law.predict(asked)[0])
        low, high = intervals.percentiles(law.sample(asked, 400)[:, 0], 0.8)
    except GyralError:  # too few runs, or none of this kind
        return {}
    why = f"{law.best.form.name} through {len(law.table)} runs, {float(law.reach(asked)[0]):.1f} decades beyond the largest"
    return {"loss": Figure(value, "", "calibrated", why, min(low, value), max(high, value))}


def of(verb: str, root: Path, config: Config, asked: Asked) -> tuple[Plan, Bill | None]:
    """What a verb would take, and a bill where there is one; `gyral.plan.verbs` has those that are not `train`."""
    if verb == "train":
        return train(root, asked.what, config, asked.given), None
    from gyral.plan.verbs import plan_of

    return plan_of(verb, root, config, asked)


def text(plan: Plan) -> str:
    """A plan for a person."""
    lines = []
    for name, each in plan.items():
        low, high = each.interval
        spread = "" if math.isclose(low, high, rel_tol=1e-9) else f"  {_told(low)} to {_told(high)}"
        lines.append(f"{name:<20} {_told(each.value):>10} {each.unit:<10}{spread:<24} {each.by}: {each.why}")
    return "\n".join(lines)


def bill_text(total: Bill) -> str:
    """A bill for a person: parts, and the assumptions that move it most."""
    parts = ", ".join(f"{name} {_told(each.value)}" for name, each in total.parts.items())
    swings = [
        f"  {each.name}: {_told(each.at_low)} to {_told(each.at_high)} usd a day ({each.figure.by})" for each in total.swings
    ]
    return "\n".join([f"of it {parts}", "moved most by", *swings])


def _told(value: float) -> str:
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
