"""The rounds of a run: ask devices, let them learn, add up what they send, take a step.

A round is a function of the seed, its number and the model, so a run is the same to the last bit on any number of workers:
devices are simulated in fixed groups of `AT_ONCE`, sums are taken in their order, and in int8 they are sums of integers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gyral.config.training import Federated
from gyral.engine.base import Engine
from gyral.errors import InputError
from gyral.model.tasks.history import NextBasket
from gyral.train.federated import update
from gyral.train.federated.devices import Fleet, Round
from gyral.train.federated.local import Layout, learn
from gyral.train.federated.secure_sum import SMALLEST, secure_sum
from gyral.train.federated.server import Server

AT_ONCE = 32
STEADY = 0.5
"""Share of the rounds at the full rate of the server; then it falls to nothing."""
SURVIVING = 2 / 3
"""Of a group that masks each other, how many must be left for its sum; more than half."""
STAGE_MASKED = 3
FLOAT_BYTES = 4


@dataclass
class Told:
    """What is known of a round when it is over; `loss` is that of devices before they learned, which no server would see.

    Attributes
    ----------
    counted : answers in the step, of devices that were `asked`.
    up_bytes, down_bytes : of all devices together; `tiers` has them, asked and counted, for each class.
    lost : answers in time that were lost with their group.
    share_clipped : of the answers, those longer than the limit.
    """

    number: int
    asked: int
    counted: int
    late: int
    gone: int
    lost: int
    loss: float
    norm: float
    share_clipped: float
    up_bytes: int
    down_bytes: int
    lasts_s: float
    seconds: float
    rate: float
    tiers: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Sent:
    """What a device sent: its update [R] (codes) or [P], the step of its codes, its norm before the limit, its loss."""

    body: np.ndarray
    step: float
    norm: float
    loss: float


@dataclass(frozen=True)
class Traffic:
    """Bytes that each device that was asked sent and got in a round."""

    up: dict[int, int]
    down: dict[int, int]


@dataclass(frozen=True)
class Learner:
    """What a worker needs to simulate devices: called with a round, the model and some of them."""

    task: NextBasket
    model: nn.Module
    told: Federated
    seed: int

    def __call__(self, item: tuple[int, np.ndarray, np.ndarray]) -> list[Sent]:
        """Updates of some devices as they are sent."""
        number, common, devices = item
        model = copy.deepcopy(self.model)  # its parameters are swapped while it is called: not by two threads at once
        layout = Layout(model)
        learned = learn(
            self.task, model, layout, torch.from_numpy(common), devices, self.told.local_steps, self.told.local_rate
        )
        moved_CP, norm_C = update.clipped(learned.moved, self.told.clip)
        steps, body = torch.ones(len(devices)), moved_CP
        if self.told.wire == "int8":
            rotation = update.Rotation(layout.size, self.seed, number)
            limit_C1 = torch.full((len(devices), 1), self.told.clip) if self.told.clip else norm_C[:, None].clamp(min=1e-12)
            step_C1 = limit_C1 * update.step_of(rotation.padded)
            seeds = np.stack([np.array((self.seed, number, 4, device)) for device in devices])
            body, steps = update.encoded(rotation.there(moved_CP), step_C1, seeds), step_C1[:, 0]
        parts = zip(body.numpy(), steps.tolist(), norm_C.tolist(), learned.loss.tolist(), strict=True)
        return [Sent(*part) for part in parts]


class Rounds:
    """A run.

    Parameters
    ----------
    told : with `noise` settled.
    engine : where devices are simulated.
    """

    def __init__(self, task: NextBasket, model: nn.Module, told: Federated, seed: int, engine: Engine) -> None:
        self.layout = Layout(model)
        self.rotation = update.Rotation(self.layout.size, seed, 0)
        self.server = Server(told.server, self.layout.flat(model), told.rate, told.momentum, told.decay)
        down, up = message_bytes(told, self.layout.size)
        self.targets = task.num_targets()
        self.fleet = Fleet(told, self.targets, seed, (down, up), self.layout.size * FLOAT_BYTES)
        self.clock_s = 0.0
        self._step = told.clip * update.step_of(self.rotation.padded)
        self._down, self._up, self._told, self._seed, self._engine = down, up, told, seed, engine
        self._learner = Learner(task, model, told, seed)
        self._model = model
        self._waiting: list[tuple[float, int, Tensor]] = []

    def run(self, on_round: Callable[[Told], None]) -> None:
        """All rounds."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums within an operation would depend on how many there are
        try:
            for number in range(self._told.rounds):
                on_round(self._round(number))
        finally:
            torch.set_num_threads(threads)

    def take_over(self) -> nn.Module:
        """The server's model as it is."""
        with torch.no_grad():
            for name, values in self.layout.named(self.server.common).items():
                self._model.get_parameter(name).copy_(values)
        return self._model

    def _round(self, number: int) -> Told:
        begun = time.perf_counter()
        plan = self.fleet.round(number)
        takes_late = self._told.late == "next"
        coming = np.union1d(plan.answered, plan.late) if takes_late else plan.answered
        asked = plan.asked.tolist()
        traffic = Traffic(dict.fromkeys(asked, 0), dict.fromkeys(asked, self._down))
        sent: dict[int, Sent] = {}
        total, counted, lost = self._added(number, plan, coming, sent, traffic)
        weight = float(counted)
        for since, body in self._due(self.clock_s + plan.lasts_s):
            staleness = (1.0 + number - since) ** -0.5
            total.add_(body, alpha=staleness)
            weight, counted = weight + staleness, counted + 1
        for device in plan.late.tolist() if takes_late else ():
            arrives_s = self.clock_s + plan.seconds[device]
            self._waiting.append((arrives_s, number, self._whole(number, sent[device])))
        self.clock_s += plan.lasts_s
        rate = self._go(number, total, weight)
        norms = np.array([each.norm for each in sent.values()] or [0.0])
        return Told(
            number, len(asked), counted, len(plan.late), len(plan.gone), lost,
            float(np.mean([each.loss for each in sent.values()] or [0.0])), float(np.median(norms)),
            float((norms > self._told.clip).mean()) if self._told.clip else 0.0, sum(traffic.up.values()),
            sum(traffic.down.values()), plan.lasts_s, time.perf_counter() - begun, rate, self._by_tier(plan, traffic),
        )  # fmt: skip

    def _added(
        self, number: int, plan: Round, coming: np.ndarray, sent: dict[int, Sent], traffic: Traffic
    ) -> tuple[Tensor, int, int]:
        """The sum over those who answered in time, [P] of float64; how many they are, and how many were lost."""
        answered = set(plan.answered.tolist())
        is_int8 = self._told.wire == "int8"
        common = self._step if is_int8 and self._told.clip else 0.0  # integers are added, as they are under masks
        total = torch.zeros(self.rotation.padded if is_int8 else self.layout.size, dtype=torch.float64)
        for device, each in self._learned(number, coming):
            sent[device] = each
            traffic.up[device] = self._up
            if device in answered and not self._told.secure_sum:
                total.add_(torch.from_numpy(each.body).double(), alpha=1.0 if common else each.step)
        count, lost = len(answered), 0
        total *= common or 1.0
        if self._told.secure_sum:
            total, count, lost = self._added_masked(number, plan, sent, traffic)
        if is_int8:
            rotation = update.Rotation(self.layout.size, self._seed, number)
            total = rotation.back(total.float()[None])[0].double()
        return total, count, lost

    def _learned(self, number: int, devices: np.ndarray) -> Iterator[tuple[int, Sent]]:
        """What devices send, in an order that is fixed; those with as much data together."""
        devices = devices[np.argsort(self.targets[devices], kind="stable")]
        groups = [devices[at : at + AT_ONCE] for at in range(0, len(devices), AT_ONCE)]
        common = self.server.common.numpy().copy()
        done = self._engine.map(self._learner, [(number, common, group) for group in groups])
        for group, each in zip(groups, done, strict=True):
            yield from zip(group.tolist(), each, strict=True)

    def _added_masked(self, number: int, plan: Round, sent: dict[int, Sent], traffic: Traffic) -> tuple[Tensor, int, int]:
        """The same, by groups that mask each other: every one that was asked is in a group, and may vanish from it."""
        asked = np.random.default_rng((self._seed, number, 5)).permutation(plan.asked)
        kind = np.uint16 if len(asked) * update.LEVELS < 1 << 15 else np.uint32
        codes = np.zeros(self.rotation.padded, dtype=kind)
        count, lost = 0, 0
        for place, group in enumerate(np.array_split(asked, max(1, len(asked) // self._told.group))):
            numbers = {at: int(device) for at, device in enumerate(group, start=1)}
            here = {at: device for at, device in numbers.items() if device in sent}
            values = {at: sent[device].body.astype(kind) if at in here else codes for at, device in numbers.items()}
            if len(numbers) < SMALLEST:
                lost += len(here)
                continue
            threshold = int(SURVIVING * len(numbers)) + 1
            context = b"gyral %d %d %d " % (self._seed, number, place)
            found = secure_sum(values, threshold, context, {at: STAGE_MASKED for at in numbers if at not in here})
            for at, device in numbers.items():
                traffic.up[device] = found.up_bytes[at]
                traffic.down[device] += found.down_bytes[at]
            if found.total is None:
                lost += len(here)
            else:
                codes, count = codes + found.total, count + len(found.survivors)
        signed = codes.astype(np.int16 if kind is np.uint16 else np.int32)
        return torch.from_numpy(signed).double() * self._step, count, lost

    def _whole(self, number: int, each: Sent) -> Tensor:
        body = torch.from_numpy(each.body).float() * each.step
        if self._told.wire == "int8":
            body = update.Rotation(self.layout.size, self._seed, number).back(body[None])[0]
        return body.double()

    def _due(self, until_s: float) -> list[tuple[int, Tensor]]:
        due = [each[1:] for each in self._waiting if each[0] <= until_s]
        self._waiting = [each for each in self._waiting if each[0] > until_s]
        return due

    def _go(self, number: int, total: Tensor, weight: float) -> float:
        """Noise, the mean, a step of the server; its rate is returned."""
        told = self._told
        if told.noise:
            drawn = np.random.default_rng((self._seed, number, 6)).standard_normal(self.layout.size)
            total = total + torch.from_numpy(drawn) * (told.noise * limit_of(told))
            weight = self.fleet.expected
        share = 1.0 if told.rounds == 1 else min(1.0, (1 - number / told.rounds) / (1 - STEADY))
        if weight > 0:
            mean = (total / weight).float()
            if not bool(torch.isfinite(mean).all()):
                hint = "a smaller `train.federated.local_rate`, or a `clip`"
                raise InputError(f"what devices sent in round {number} is not finite", hint=hint)
            self.server.step(mean, self.layout.is_matrix_P, share)
        return share * self.server.rate

    def _by_tier(self, plan: Round, traffic: Traffic) -> dict[str, dict[str, int]]:
        found = {}
        for place, name in enumerate(self.fleet.tiers):
            asked = [int(device) for device in plan.asked if self.fleet.tier[device] == place]
            answered = int((self.fleet.tier[plan.answered] == place).sum()) if len(plan.answered) else 0
            found[name] = {
                "asked": len(asked),
                "answered": answered,
                "up_bytes": sum(traffic.up[device] for device in asked),
                "down_bytes": sum(traffic.down[device] for device in asked),
            }
        return found


def message_bytes(told: Federated, size: int) -> tuple[int, int]:
    """Of the model on its way down, and of one update on its way up, without what a secure sum adds."""
    padded = update.Rotation(size, 0, 0).padded
    if told.wire == "f32":
        return FLOAT_BYTES * size, FLOAT_BYTES * size
    return FLOAT_BYTES * size, padded * (2 if told.secure_sum else 1) + (0 if told.clip else FLOAT_BYTES)


def limit_of(told: Federated) -> float:
    """How far one device can move a sum: the limit, and what rounding adds to it."""
    return told.clip * (1 + update.ROUNDED) if told.wire == "int8" else told.clip
