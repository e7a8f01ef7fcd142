"""Rowwise Adagrad against a loop over rows in numpy, and gradients of touched rows against those of the whole table."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gyral.config.training import Optim
from gyral.model.nets.tables import NO_ID, Table
from gyral.model.roles import Roles
from gyral.model.task import BaseTask, Sums, seeded
from gyral.train import loop
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel import touched
from gyral.train.parallel.strategy import Alone

NUM, WIDTH = 50, 6


class Bags(nn.Module):
    def __init__(self, is_matrix):
        super().__init__()
        self.bag, self.one = Table(NUM, WIDTH, "mean"), nn.Embedding(NUM, WIDTH, padding_idx=3)
        self.out = nn.Linear(2 * WIDTH, 1)
        self.is_matrix = is_matrix

    def forward(self, bags, ones):
        x = torch.cat([self.bag(bags), self.one(ones)], dim=1)
        every = (x[:, :WIDTH] @ self.bag.weight.T).logsumexp(1) if self.is_matrix else 0.0
        return self.out(x).squeeze(1) + every


class Skewed(BaseTask):
    """Skewed ids, so rows come twice in a bag, in a batch and in both micro-batches; some examples have no weight."""

    name, num_rows = "skewed", 200
    roles = Roles(rules=(("bag", "table"), ("one", "table")))

    def __init__(self, is_matrix=False):
        self.is_matrix = is_matrix

    def build(self, seed):
        return seeded(seed, lambda: Bags(self.is_matrix))

    def batch(self, examples, step):
        rows = [np.random.default_rng((3, example)) for example in examples]
        bags = np.stack([(NUM * row.random(5) ** 3).astype(np.int64) for row in rows])
        bags[:, 4][examples % 3 == 0] = NO_ID
        ones = np.stack([row.integers(0, 9) for row in rows])
        return {
            "bags": torch.tensor(bags),
            "ones": torch.tensor(ones),
            "label": torch.tensor((bags[:, 0] % 3 < 1) * 1.0).float(),
        }

    def inputs(self, batch):
        return batch["bags"], batch["ones"]

    def sums(self, outputs, batch, gather):
        counts = batch["ones"] != 7
        loss = F.binary_cross_entropy_with_logits(outputs, batch["label"], reduction="none")
        return Sums((loss * counts).sum(), counts.sum().float())


CONFIG = Optim(tables="rowwise_adagrad", table_rate=0.2, rate=0.01, weight_decay=0.1, clip=0.05, warmup=0, schedule="constant")


def trained(follows_rows, microbatch=0, is_matrix=False, steps=12):
    task, strategy = Skewed(is_matrix), Alone()
    strategy.follows_rows = follows_rows
    model = strategy.place(task, task.build(1))
    optimizer = Optimizer(model, CONFIG, steps, task.roles)
    records = []
    order = Order(task.num_rows, 12, 4)
    settings = loop.Settings(steps, 12, microbatch, clip=CONFIG.clip)
    loop.train(task, model, strategy, optimizer, settings, order, loop.Position(), [records.append])
    return model, optimizer, records


@pytest.mark.parametrize("is_matrix", [False, True])
@pytest.mark.parametrize("microbatch", [0, 5])
def test_touched_rows_learn_what_whole_tables_learn(microbatch, is_matrix):
    (ours, _, steps), (whole, _, expected) = trained(True, microbatch, is_matrix), trained(False, 0, is_matrix)
    for one, other in zip(steps, expected, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-6)
        assert one.norm == pytest.approx(other.norm, rel=2e-6) and one.norm > CONFIG.clip
    for mine, theirs in zip(ours.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-6)


def test_the_update_is_that_of_a_loop_over_rows():
    """Written from the formula in numpy's float64: gradients from torch's own autograd on an untouched model."""
    task, model = Skewed(), Skewed().build(1)
    tables = {name: getattr(model, name).weight.detach().double().numpy().copy() for name in ("bag", "one")}
    sums = {name: np.zeros(NUM) for name in tables}
    others = torch.optim.AdamW(
        [{"params": [model.out.weight], "weight_decay": 0.1}, {"params": [model.out.bias], "weight_decay": 0.0}],
        lr=0.01, betas=(CONFIG.beta1, CONFIG.beta2), eps=CONFIG.eps,
    )  # fmt: skip
    for step in range(12):
        model.zero_grad()
        batch = task.batch(Order(task.num_rows, 12, 4).examples(step), step)
        loss, weight, _ = task.sums(model(*task.inputs(batch)), batch, None)
        (loss / weight).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
        others.step()
        for name, table in tables.items():
            gradient = getattr(model, name).weight.grad.double().numpy()
            for row in range(NUM):
                if gradient[row].any():
                    sums[name][row] += (gradient[row] ** 2).mean()
                    table[row] *= 1 - 0.2 * (0.1 / 20)  # decay is divided by the factor on the rate
                    table[row] -= 0.2 * gradient[row] / (np.sqrt(sums[name][row]) + CONFIG.eps)
            getattr(model, name).weight.data.copy_(torch.tensor(table))
    ours, optimizer, _ = trained(True)
    for name, table in tables.items():
        weight = getattr(ours, name).weight
        assert np.allclose(weight.detach().numpy(), table, atol=2e-6)
        assert np.allclose(optimizer.inner.state[weight]["sum"].numpy(), sums[name], rtol=1e-4)
    assert not sums["one"][[3, 20]].any(), "padding and ids that nobody met are as they were"


def test_rows_that_nobody_looked_up_have_no_gradient_and_are_not_moved():
    model, optimizer, _ = trained(True, steps=1)
    before = Skewed().build(1)
    moved = (model.bag.weight != before.bag.weight).any(1)
    met = Skewed().batch(Order(200, 12, 4).examples(0), 0)["bags"].unique()
    assert set(moved.nonzero().squeeze(1).tolist()) <= set(met.tolist()) and 5 < moved.sum() < NUM
    assert model.bag.weight.grad is None and touched.gradient_of(model.bag.weight) is None
    assert optimizer.inner.state[model.bag.weight]["sum"].shape == (NUM,)


def test_a_state_that_was_saved_goes_on():
    model, optimizer, _ = trained(True, steps=3)
    other = Optimizer(model, CONFIG, 12, Skewed.roles)
    other.load(optimizer.state())
    for name in ("bag", "one"):
        weight = getattr(model, name).weight
        assert torch.equal(other.inner.state[weight]["sum"], optimizer.inner.state[weight]["sum"])


def test_tables_keep_adamw_where_nothing_else_is_asked():
    model = Skewed().build(1)
    optimizer = Optimizer(model, Optim(), 3, Skewed.roles)
    assert type(optimizer.inner) is torch.optim.AdamW
