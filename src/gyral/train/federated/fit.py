"""The trainer behind `--sync federated`: devices are subjects, the model is `recommender/history`.

What is published knows no person: weights, and how probable each object is to anybody (from its bias). A device sends what it
met last with its request (`recent`), or computes the answer itself from the weights. The list of objects is public, as a shop's
is; nothing else of the dataset is in the folder.

Simulated and therefore not private: the judge reads held-out histories, `loss` and norms are those of devices, and noise comes
from the run's seed, so whoever has the seed can take it off.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from gyral.config import Config
from gyral.config.training import Federated
from gyral.engine.base import connect
from gyral.errors import ConfigError
from gyral.lake.dataset import Dataset
from gyral.model import inputs as model_inputs
from gyral.model.card import Weights
from gyral.model.inputs import Inputs
from gyral.model.neural_recommender import arrays_of, meta_of
from gyral.model.recommender import Interactions, Spec, fit_with
from gyral.model.tasks.history import NextBasket
from gyral.run import Run
from gyral.train import loop
from gyral.train.federated import privacy
from gyral.train.federated.devices import Fleet
from gyral.train.federated.rounds import Rounds, Told, message_bytes
from gyral.train.fitted import Fitted
from gyral.train.reading import reads
from gyral.train.sync import for_devices
from gyral.train.tasks import open_task

MEASURED_ON = "the last fifth of the events, asked with the histories of devices, full ranking"


@reads(
    "train.federated",
    "train.evaluate_every",
    why="devices learn by `train.federated`",
    hint="`gyral show config.train` lists `train.federated`; or leave `--sync federated` out",
)
def fit(root: Path, data: Dataset, config: Config, run: Run, budget_s: float) -> Fitted:
    """Train over rounds of simulated devices.

    Raises
    ------
    ConfigError : settings that do not go together.
    """
    config = for_devices(config)
    task = open_task(root, data.name, config)
    if not isinstance(task, NextBasket):  # somebody registered another task of this name
        raise ConfigError("`recommender/history` is not what devices can learn", where="train.task")
    seed = config.train.seed
    model = task.build(seed)
    told, private = with_noise(config.train.federated, task, model, seed)
    engine = connect(config.on, run.note)
    rounds = Rounds(task.for_devices(), model, told, seed, engine)
    run.note(f"train    {task.num_rows:,} devices, {rounds.layout.size:,} parameters; {sum_of(rounds.targets)}")
    meter, history, begun = run.meter("rounds", told.rounds), [], time.monotonic()

    def on_round(done: Told) -> None:
        history.append(done)
        run.metric(
            "step", step=done.number, members=done.counted, seconds=done.seconds, loss=done.loss, norm=done.norm,
            rate=done.rate, asked=done.asked, late=done.late, gone=done.gone, up_bytes=done.up_bytes,
            down_bytes=done.down_bytes, clock_s=rounds.clock_s,
        )  # fmt: skip
        every = config.train.evaluate_every
        if every and done.number + 1 < told.rounds and (done.number + 1) % every == 0:
            run.metric("held_out", step=done.number + 1, is_best=False, **loop.evaluate(task, rounds.take_over()))
        meter.update(done.number + 1, told.rounds, loss=done.loss)

    try:
        rounds.run(on_round)
    finally:
        engine.close()
    metrics = loop.evaluate(task, rounds.take_over())
    facts = facts_of(history, rounds, told) | {"privacy": private}
    run.metric("held_out", step=told.rounds, is_best=True, **metrics)
    run.summarize(**{name: value for name, value in facts.items() if not isinstance(value, dict)}, **private)
    for line in lines_of(facts, private):
        run.note(f"train    {line}")
    candidate = {"name": f"federated {told.server}", **metrics, "chosen": True}
    training = {
        "steps": told.rounds, "loss": [each.loss for each in history], "metrics": metrics, "ranks": 1, "federated": facts,
        "elapsed_s": time.monotonic() - begun,
    }  # fmt: skip
    inputs, weights = published(data, task, model)
    return Fitted(weights, inputs, [candidate], MEASURED_ON, training, {}, task.metric)


def with_noise(told: Federated, task: NextBasket, model: torch.nn.Module, seed: int) -> tuple[Federated, dict[str, Any]]:
    """Settings with the noise that `epsilon` asks for, and what may be claimed."""
    if not told.noise and not told.epsilon:
        return told, {"epsilon": None, "claim": "none: no noise was added"}
    size = sum(param.numel() for param in model.parameters())
    share = Fleet(told, task.num_targets(), seed, message_bytes(told, size), 4 * size).share
    noise = told.noise or privacy.noise_for(told.epsilon, share, told.rounds, told.delta)
    epsilon = privacy.epsilon_of(noise, share, told.rounds, told.delta)
    claim = f"({epsilon:.3g}, {told.delta:g}) for a device with all its events, by who sees the models; the server is trusted"
    private = {"epsilon": epsilon, "delta": told.delta, "noise": noise, "sampled": share, "claim": claim}
    return msgspec.structs.replace(told, noise=noise), private


def published(data: Dataset, task: NextBasket, model: torch.nn.Module) -> tuple[Inputs, Weights]:
    """The vocabulary of objects, and a model without anybody's history."""
    inputs, _ = model_inputs.encode(data.read())
    net = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
    nothing = np.zeros(0, np.int32)
    nobody = Interactions(nothing, nothing, np.zeros(0, np.int64), nothing, 0, task.shape.objects, 0)
    spec = Spec("popularity", kind="popularity", popular=1.0, repeats=data.manifest.repeats)
    closed = fit_with(nobody, spec)
    share = np.exp(net["bias"] - net["bias"].max()).astype(np.float32)
    closed.arrays.update(popular=share, count=share.copy())
    arrays = {**arrays_of(nobody, closed, task.shape.length), **net}
    settings = meta_of("history", asdict(task.shape), closed, 0.0) | {"histories": "on devices"}
    return replace_names(inputs), Weights(arrays, settings)


def replace_names(inputs: Inputs) -> Inputs:
    """The vocabulary without subjects and countries."""
    return msgspec.structs.replace(inputs, subjects=[], countries=[])


def facts_of(history: list[Told], rounds: Rounds, told: Federated) -> dict[str, Any]:
    """What the card keeps of a run."""
    tiers: dict[str, dict[str, int]] = {}
    for each in history:
        for name, counts in each.tiers.items():
            kept = tiers.setdefault(name, dict.fromkeys(counts, 0))
            for key, value in counts.items():
                kept[key] += value
    asked, counted = (sum(getattr(each, name) for each in history) for name in ("asked", "counted"))
    up, down = (sum(getattr(each, name) for each in history) for name in ("up_bytes", "down_bytes"))
    return {
        "devices": len(rounds.targets), "parameters": rounds.layout.size, "rounds": told.rounds, "server": told.server,
        "wire": told.wire, "secure_sum": told.secure_sum, "clip": told.clip, "asked": asked, "answers": counted,
        "late": sum(each.late for each in history), "gone": sum(each.gone for each in history),
        "lost": sum(each.lost for each in history), "up_bytes": up, "down_bytes": down,
        "up_bytes_an_answer": round(up / max(counted, 1)), "clock_s": rounds.clock_s,
        "share_clipped": float(np.mean([each.share_clipped for each in history])), "tiers": tiers,
    }  # fmt: skip


def lines_of(facts: dict[str, Any], private: dict[str, Any]) -> list[str]:
    """The same for a person."""
    hours = facts["clock_s"] / 3600
    found = [
        f"{facts['answers']:,} answers of {facts['asked']:,} asked ({facts['gone']:,} gone, {facts['late']:,} late), "
        f"{facts['up_bytes'] / 1e6:,.0f} MB up, {facts['down_bytes'] / 1e6:,.0f} MB down, {hours:.1f} h by the simulated clock",
        f"privacy: {private['claim']}",
    ]
    if facts["lost"]:
        found.append(f"{facts['lost']:,} answers were lost with groups of which too many vanished")
    return found


def sum_of(targets: np.ndarray) -> str:
    """How unequal devices are."""
    low, middle, high = np.percentile(targets, [5, 50, 99]).astype(int)
    return f"a device learns from {middle:,} events (5 %: {low:,}, 99 %: {high:,})"
