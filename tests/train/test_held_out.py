"""Which weights are published: those of the best evaluation, as a task that worsens on purpose shows."""

import json

import pytest
import torch
from torch import nn

from gyral.model.task import BaseTask
from gyral.train.ema import Ema
from gyral.train.held_out import FILE, HeldOut, is_better
from gyral.train.parallel.strategy import Alone


class Told(BaseTask):
    """Its loss is what the model's only weight says."""

    def evaluate(self, model):
        return {"loss": abs(float(model.weight.detach()) - 3.0)}


def made(folder, keep="best", ema=False, **options):
    model = nn.Linear(1, 1, bias=False)
    average = Ema(model, 0.5) if ema else None
    strategy = Alone()
    strategy.place(Told(), model)
    return model, HeldOut(Told(), model, strategy, folder, keep=keep, last_step=4, ema=average, **options), average


def walk(model, held_out, weights, ema=None):
    for step, weight in enumerate(weights, start=1):
        with torch.no_grad():
            model.weight.fill_(weight)
        if ema:
            ema.update()
        held_out(step)


def test_the_best_weights_come_back_and_every_evaluation_is_a_line(tmp_path):
    model, held_out, _ = made(tmp_path)
    walk(model, held_out, [0.0, 2.5, 7.0, 9.0])
    assert held_out.publish() == {"loss": 0.5} and float(model.weight.detach()) == 2.5 and held_out.best.step == 2
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [(line["step"], line["metrics"]["loss"], line["is_best"]) for line in lines] == [
        (1, 3.0, True), (2, 0.5, True), (3, 4.0, False), (4, 6.0, False),
    ]  # fmt: skip


def test_the_last_is_published_when_it_is_the_best_or_when_asked_for(tmp_path):
    model, held_out, _ = made(tmp_path)
    walk(model, held_out, [0.0, 2.5, 7.0, 3.25])
    assert held_out.publish() == {"loss": 0.25} and float(model.weight.detach()) == 3.25
    model, held_out, _ = made(tmp_path, keep="last")
    walk(model, held_out, [0.0, 2.5, 7.0, 9.0])
    assert held_out.publish() == {"loss": 6.0} and float(model.weight.detach()) == 9.0


@pytest.mark.parametrize(("weights", "published"), [([3.0, 3.0, 3.0, 3.0], "last"), ([3.0, 9.0, 9.0, 9.0], "first")])
def test_with_a_moving_average_it_is_the_average_that_is_measured_and_published(tmp_path, weights, published):
    model, held_out, ema = made(tmp_path, ema=True)
    with torch.no_grad():
        ema.shadow["weight"].fill_(3.0)
    walk(model, held_out, weights, ema)
    assert held_out.publish()["loss"] == pytest.approx(0.0, abs=1e-6)
    assert float(model.weight.detach()) == pytest.approx(3.0) and held_out.best.step == (4 if published == "last" else 1)


def test_a_task_that_measures_nothing_publishes_the_last(tmp_path):
    model, held_out, _ = made(tmp_path)
    held_out._task = BaseTask()
    walk(model, held_out, [1.0, 2.0, 3.0, 4.0])
    assert held_out.publish() == {} and float(model.weight.detach()) == 4.0


def test_losses_are_better_below_and_other_metrics_above():
    assert is_better({"loss": 1.0, "recall": 0.1}, {"loss": 1.1, "recall": 0.9})
    assert is_better({"bits_per_byte": 1.0}, {"bits_per_byte": 1.0}), "the later one of two equal"
    assert is_better({"recall_at_10": 0.3}, {"recall_at_10": 0.2}) and not is_better(
        {"recall_at_10": 0.2}, {"recall_at_10": 0.3}
    )
