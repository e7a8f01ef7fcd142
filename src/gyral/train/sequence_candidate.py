"""A sequence net as a candidate beside the closed forms: same held-out events, full ranking, and it must be clearly better.

    planned_s     what it would cost by a nominal rate, without loading torch
    compete       train on the part before, judge: the net alone, and the net with the winning closed form beside it
    finished      train the winner anew on everything; the net that was judged stays along as the twin to measure on

Sizes and passes are those that ml-100k's validation liked (`benchmarks/recommender/sequence.py`): 20 passes, HSTU. A candidate
costs two trainings. At the demo's 30 s a turn that is never planned; on the bundled shop it never won either.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gyral.config import NOMINAL_FLOP_PER_S, Config
from gyral.config.training import Optim
from gyral.model.card import Weights
from gyral.model.holdout import Split, measure
from gyral.model.recommender import Interactions, Recommender, Spec, fit_with
from gyral.model.sequences import Sequences, window_flops
from gyral.progress import Meter
from gyral.train.closed_form import MIN_GAIN

if TYPE_CHECKING:
    from torch import nn

    from gyral.model.task import Task

PASSES = 20
BATCH = 32
MIN_STEPS = 200
OPTIM = Optim(rate=1e-3, weight_decay=0.1, warmup=20, decay=0.5)
SHARE = 0.5
"""Of the budget that it may cost: the rest is the closed forms'."""
BESIDE = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Weights of the closed form beside the net that are tried; 0: the net alone."""


class Judged(NamedTuple):
    """The net that was trained on the part before, its entries for the card, and the best of them."""

    net: nn.Module
    entries: list[dict[str, Any]]
    best: dict[str, Any]
    net_name: str = "sequence"


def planned_s(data: Interactions, config: Config, budget_s: float) -> float:
    """Nominal seconds of two trainings; 0 where they are not to be: switched off, no torch, too dear, too little data."""
    own = config.recommend
    if own.candidate == "never" or find_spec("torch") is None or not len(data):
        return 0.0
    windows = Sequences.of(data, own.length).num_windows
    hidden = own.hidden or 4 * own.width
    compared = 1 + own.negatives if own.negatives else data.num_objects
    flops = window_flops(own.net, own.length, own.width, hidden, own.depth, compared)
    cost_s = 2 * num_steps(windows) * BATCH * flops / NOMINAL_FLOP_PER_S
    return cost_s if windows >= BATCH and cost_s <= SHARE * budget_s else 0.0


def num_steps(windows: int) -> int:
    """Updates of one training."""
    return max(PASSES * windows // BATCH, MIN_STEPS)


def compete(split: Split, spec: Spec, config: Config, meter: Meter) -> Judged:
    """Train on the part before and ask about the part after."""
    from gyral.model.neural_recommender import NeuralRecommender, arrays_of, meta_of

    closed_form = fit_with(split.before, spec)
    net, shape = _trained(split.before, config, meter)
    arrays = arrays_of(split.before, closed_form, shape["length"])
    entries: list[dict[str, Any]] = []
    for closed in BESIDE:
        told = measure(NeuralRecommender(arrays, meta_of("sequence", shape, closed_form, closed), net), split)
        name = f"{config.recommend.net}+{spec.name}" if closed else config.recommend.net
        entries.append({"name": name, **{key: round(value, 6) for key, value in told.items()}, "closed": closed})
    alone, *beside = entries
    best = max(beside, key=lambda entry: entry["ndcg_at_10"])
    return Judged(net, [alone, best], max((alone, best), key=lambda entry: entry["ndcg_at_10"]))


def is_better(judged: Judged, closed_form: dict[str, Any]) -> bool:
    """By more than what is noise of the held-out part."""
    return bool(judged.best["ndcg_at_10"] > closed_form["ndcg_at_10"] * (1 + MIN_GAIN))


def finished(data: Interactions, model: Recommender, judged: Judged, config: Config, meter: Meter) -> Weights:
    """The winner, learned from everything, beside a closed form that was."""
    from gyral.model.neural_recommender import arrays_of, meta_of

    net, shape = _trained(data, config, meter)
    kept = arrays_of(data, model, shape["length"])
    twin = {f"twin.{name}": values for name, values in arrays_in(judged.net).items()}
    return Weights({**kept, **arrays_in(net), **twin}, meta_of("sequence", shape, model, judged.best["closed"]))


def _trained(data: Interactions, config: Config, meter: Meter) -> tuple[nn.Module, dict[str, Any]]:
    from gyral.model.tasks.sequence import NextObject
    from gyral.train.open_recommender import shape_of

    seed, shape = config.train.seed, shape_of(config, data.num_objects)
    task = NextObject(shape, Sequences.of(data, shape.length), seed, config.recommend.negatives)
    return learned(task, num_steps(task.num_rows), BATCH, OPTIM, seed, meter), asdict(shape)


def learned(task: Task, steps: int, batch: int, optim: Optim, seed: int, meter: Meter) -> nn.Module:
    """A net that this process trains, told to a meter."""
    from gyral.train import loop
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer
    from gyral.train.parallel.strategy import Alone

    batch, strategy = min(batch, task.num_rows), Alone()
    strategy.follows_rows = optim.tables == "rowwise_adagrad"
    model = strategy.place(task, task.build(seed))
    done = meter.record.done

    def tell(step: loop.Step) -> None:
        meter.update(done + step.step + 1, loss=step.loss)

    loop.train(
        task, model, strategy, Optimizer(model, optim, steps, task.roles), loop.Settings(steps, batch),
        Order(task.num_rows, batch, seed), loop.Position(), [tell],
    )  # fmt: skip
    return model.eval()


def arrays_in(net: nn.Module) -> dict[str, np.ndarray]:
    """Its weights and buffers by name."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()}
