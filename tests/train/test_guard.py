"""Guards: what is called a spike against a plain formula; a run with poisoned rows against one that never saw them."""

import math
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from gyral.config.training import Optim
from gyral.errors import QualityError
from gyral.model.task import BaseTask, Sums
from gyral.train import loop
from gyral.train.ema import Ema
from gyral.train.guard import MAX_BACK, MIN_SEEN, Copy, Guard
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone


class Line(BaseTask):
    """Targets are a linear function of five inputs and noise; rows of some *steps* can be poisoned."""

    num_rows = 4096

    def __init__(self, poison=None):
        self.poison = poison or {}
        draw = np.random.default_rng(0)
        self.inputs_RF = torch.from_numpy(draw.normal(size=(self.num_rows, 5)).astype(np.float32))
        noise = torch.from_numpy(draw.normal(size=(self.num_rows, 1)).astype(np.float32))
        self.targets_R1 = self.inputs_RF @ torch.tensor([[1.0], [-2.0], [0.5], [3.0], [0.0]]) + 0.3 * noise

    def build(self, seed):
        torch.manual_seed(seed)
        return nn.Linear(5, 1)

    def batch(self, examples, step):
        at = torch.from_numpy(examples)
        return {"inputs": self.inputs_RF[at], "targets": self.targets_R1[at] + self.poison.get(step, 0.0)}

    def sums(self, outputs, batch, gather):
        return Sums((outputs - batch["targets"]).pow(2).sum(), torch.tensor(float(len(outputs))))


def trained(task, steps=120, guard=None, copy_every=10, poke=None, rate=0.1, **options):
    """Weights and steps of a run; `poke` (step, function) is called with the model after that step."""
    model, seen = task.build(0), []
    strategy = Alone()
    strategy.place(task, model)
    optimizer = Optimizer(model, Optim(rate=rate, schedule="constant", warmup=0), steps)

    def watch(step):
        seen.append(step)
        if poke and step.step == poke[0]:
            poke[1](model)

    settings, order = loop.Settings(steps, 32, copy_every=copy_every), Order(task.num_rows, 32, 0)
    loop.train(task, model, strategy, optimizer, settings, order, loop.Position(), [watch], (), guard, **options)
    return model, seen


def test_z_is_the_robust_one_of_the_last_losses():
    guard, draw = Guard(spike=5.0), np.random.default_rng(1)
    losses = (3 + 0.2 * draw.normal(size=200)).tolist()
    for step, loss in enumerate(losses):
        assert guard.judge(step, loss, 1.0) == "learn"
    last = losses[-64:]
    median = statistics.median(last)
    deviation = 1.4826 * float(np.median(np.abs(np.array(last) - median)))
    assert guard.z(4.5) == pytest.approx((4.5 - median) / deviation, rel=1e-9)


def test_nothing_is_a_spike_before_enough_is_known_and_a_converged_run_may_ripple():
    guard = Guard(spike=5.0)
    assert all(guard.judge(step, loss, 1.0) == "learn" for step, loss in enumerate([1.0, 50.0, 1.0] + [1.0] * (MIN_SEEN - 3)))
    assert guard.judge(20, 1.02, 1.0) == "learn", "2 % above losses that never differ"
    assert guard.judge(21, 1.2, 1.0) == "skip"


def test_a_poisoned_batch_is_passed_over_and_leaves_the_weights_as_they_were():
    before, _ = trained(Line(), steps=50)
    hurt, _ = trained(Line({50: 1e4}), steps=51)
    guarded, seen = trained(Line({50: 1e4}), steps=51, guard=Guard(spike=8.0))
    assert torch.equal(guarded.weight, before.weight) and not torch.equal(hurt.weight, before.weight)
    guarded, seen = trained(Line({50: 1e4}), guard=Guard(spike=8.0))
    assert [step.step for step in seen if step.skipped] == [50] and seen[50].back is None
    assert (seen[50].first, seen[51].first) == (50 * 32, 51 * 32), "its rows are behind"
    assert seen[-1].loss < 0.3


def test_a_batch_that_is_not_finite_changes_nothing_at_all():
    reached = []
    trained(Line({30: float("nan")}), steps=31, poke=(29, lambda model: reached.append(model.weight.detach().clone())))
    model, seen = trained(Line({30: float("nan")}), steps=31)
    assert seen[30].skipped and not math.isfinite(seen[30].loss) and torch.equal(model.weight, reached[0])


def test_too_many_in_a_row_are_refused_with_the_step_they_began_at():
    with pytest.raises(QualityError, match="not finite since step 40"):
        trained(Line(dict.fromkeys(range(40, 60), float("inf"))))


def spoil(model):
    with torch.no_grad():
        model.weight.mul_(30.0).add_(500.0)


@pytest.mark.parametrize("ema", [False, True])
def test_weights_that_went_bad_are_set_back_and_training_goes_on_behind(ema):
    model = Line().build(0)
    seen, averages, optimizer = [], [], Optimizer(model, Optim(rate=0.1, schedule="constant", warmup=0), 150)
    average = Ema(model, 0.9) if ema else None
    strategy, task, at_copy = Alone(), Line(), {}
    strategy.place(task, model)

    def watch(step):
        seen.append(step)
        if step.step == 59:
            at_copy["weight"] = model.weight.detach().clone()
            at_copy["moment"] = optimizer.inner.state[model.weight]["exp_avg"].clone()
        if step.step == 64:
            spoil(model)
        if step.back is not None:
            assert torch.equal(model.weight, at_copy["weight"])
            assert torch.equal(optimizer.inner.state[model.weight]["exp_avg"], at_copy["moment"])
            averages.append(average.shadow["weight"].clone() if average else None)

    settings, order = loop.Settings(150, 32, copy_every=20), Order(task.num_rows, 32, 0)
    guard = Guard(spike=8.0)
    loop.train(task, model, strategy, optimizer, settings, order, loop.Position(), [watch], (), guard, average)
    assert [step.step for step in seen if step.skipped] == [65, 66, 67, 68]
    assert [step.back for step in seen if step.back is not None] == [60]
    assert [step.first for step in seen] == [32 * number for number in range(150)], "no row twice, none left out"
    assert seen[-1].loss < 0.3 and len(averages) == 1
    if ema:
        assert float(averages[0].abs().max()) < 10, "the average is set back as well"


def test_a_run_that_goes_bad_again_and_again_is_refused():
    with pytest.raises(QualityError, match=f"{MAX_BACK} times did not help"):
        trained(Line(dict.fromkeys(range(60, 200), 1e4)), steps=200, guard=Guard(spike=8.0))


def test_the_same_spikes_give_the_same_run():
    poison = {30: 1e3, 31: 1e3, 32: 1e3, 33: 1e3, 34: 1e3, 90: 1e5}
    (one, first), (two, second) = (trained(Line(poison), guard=Guard(spike=6.0)) for _ in range(2))
    assert torch.equal(one.weight, two.weight)
    assert [(a.loss, a.skipped, a.back) for a in first] == [(b.loss, b.skipped, b.back) for b in second]


def test_a_guard_goes_on_from_what_a_checkpoint_kept():
    losses = (3 + 0.2 * np.random.default_rng(2).normal(size=60)).tolist()
    whole, resumed = Guard(spike=5.0), Guard(spike=5.0)
    for step, loss in enumerate(losses[:40]):
        whole.judge(step, loss, 1.0)
    resumed.load(whole.state())
    for step, loss in enumerate([*losses[40:], 9.0]):
        assert whole.judge(step, loss, 1.0) == resumed.judge(step, loss, 1.0)
    assert whole.z(5.0) == resumed.z(5.0) and whole.num_skipped == resumed.num_skipped == 1


class Remembering(Alone):
    """A strategy with a state of its own."""

    def __init__(self):
        self.outer = torch.ones(3)

    def state(self):
        return {"outer": self.outer, "rounds": {"done": 2}}

    def load(self, state):
        self.outer = state["outer"]


def test_a_copy_holds_what_a_strategy_keeps():
    model, strategy = nn.Linear(2, 2), Remembering()
    copy = Copy(3, model, torch.optim.AdamW(model.parameters()), strategy)
    strategy.outer.zero_()
    copy.restore()
    assert torch.equal(strategy.outer, torch.ones(3))
    strategy.outer.zero_()
    copy.restore()
    assert torch.equal(strategy.outer, torch.ones(3)), "a copy serves more than once"
