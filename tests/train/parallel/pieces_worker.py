"""One rank of a test of pipeline, context, expert and tables: trains on one mesh after the other inside one process group.

python pieces_worker.py FOLDER CASES   a case is {"task": …, "parallel": …, and words of `Train`}; rank 0 trains each alone too
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from gyral.config.training import Optim, Train
from gyral.engine.ranks import leave
from gyral.errors import GyralError
from gyral.model import sequences
from gyral.model.nets.asked import Asked
from gyral.model.nets.llama import Shape
from gyral.model.nets.sequence import Shape as ObjectShape
from gyral.model.nets.tables import NO_ID, Table
from gyral.model.roles import Roles
from gyral.model.task import BaseTask, Sums, seeded
from gyral.model.tasks.next_token import NextToken, Text
from gyral.model.tasks.sequence import NextObject
from gyral.train import loop
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel import context, mesh
from gyral.train.parallel.strategy import Alone

STEPS, BATCH, LENGTH = 12, 8, 24
WORDS = ["the", "gyre", "turns", "and", "what", "it", "carries", "comes", "back", "another", "day", "in", "other", "waters"]
TRAIN = {"microbatch", "schedule", "tables", "precision", "sharding", "recompute"}


class Tower(nn.Module):
    """A bag of what a subject has seen, and an object: will they meet?"""

    def __init__(self):
        super().__init__()
        self.seen, self.object = Table(41, 8, "mean"), Table(41, 8, "none")
        self.country = nn.Embedding(5, 4)
        self.hidden, self.out = nn.Linear(20, 12), nn.Linear(12, 1)

    def forward(self, seen, objects, country):
        x = torch.cat([self.seen(seen), self.object(objects)[:, 0], self.country(country)], dim=1)
        return self.out(F.relu(self.hidden(x))).sum(dim=1)


class Clicks(BaseTask):
    """Clicks that follow a rule; ids are skewed, so ranks ask for the same rows, and some rows have no weight."""

    name, num_rows = "clicks", 300
    roles = Roles(rules=(("seen", "table"), ("object", "table"), ("country", "table"), ("hidden", "column"), ("out", "row")))

    def build(self, seed):
        return seeded(seed, Tower)

    def batch(self, examples, step):
        rows = [np.random.default_rng((11, example)) for example in examples]
        seen = np.stack([(41 * row.random(6) ** 3).astype(np.int64) for row in rows])
        seen[:, 4:][np.stack([row.random(2) < 0.5 for row in rows])] = NO_ID
        objects = np.stack([row.integers(0, 41, 1) for row in rows])
        label = (objects[:, 0] % 5 < 2 + (seen[:, 0] > 20)).astype(np.float32)
        found = {"seen": seen, "objects": objects, "country": objects[:, 0] % 5, "label": label}
        return {name: torch.from_numpy(array) for name, array in found.items()}

    def inputs(self, batch):
        return batch["seen"], batch["objects"], batch["country"]

    def sums(self, outputs, batch, gather):
        counts = (batch["seen"] != NO_ID).sum(1) > 4
        loss = F.binary_cross_entropy_with_logits(outputs, batch["label"], reduction="none")
        right = ((outputs > 0) == (batch["label"] > 0.5)) & counts
        return Sums((loss * counts).sum(), counts.sum().float(), {"right": right.sum().float()})


def texts():
    drawn = np.random.default_rng(0)
    return [" ".join(drawn.choice(WORDS, number)).encode() for number in drawn.integers(2, 30, 200)]


def events():
    """What 30 subjects met, two in three of them the follower of what was met before."""
    drawn = np.random.default_rng(1)
    lists = []
    for size in drawn.integers(3, 26, 30):
        met = [int(drawn.integers(0, 37))]
        while len(met) < size:
            met.append((met[-1] * 3 + 1) % 37 if drawn.random() < 0.7 else int(37 * drawn.random() ** 3))
        lists.append(met)
    indptr = np.concatenate([[0], np.cumsum([len(each) for each in lists])])
    objects = np.concatenate(lists).astype(np.int32)
    return sequences.Sequences(indptr, objects, np.arange(len(objects)) * 3600, 10)


class Ranked(NextObject):
    """Next objects; evaluation scores all objects, as full ranking does."""

    def evaluate(self, model):
        objects, times, _ = (torch.from_numpy(each) for each in self._trained.windows(np.arange(6)))
        asked = Asked(None, None, objects, times, torch.full((6,), 3))
        return {"scores": float(model.score(asked).log_softmax(-1).max(1).values.sum())}


def task_of(case):
    if case["task"] == "clicks":
        return Clicks()
    if case["task"] in ("sasrec", "hstu"):
        return Ranked(
            ObjectShape(37, 16, 2, case.get("heads", 2), 10, 24, 0.2, case["task"]), events(), 5, case.get("negatives", 0)
        )
    experts = {"experts": 4, "experts_used": 2} if case["task"] == "experts" else {}
    shape = Shape(257, 32, case.get("depth", 2), 4, case.get("kv_heads", 2), 44, case.get("tied", True), **experts)
    return NextToken(shape, case.get("length", LENGTH), Text(texts()[:180]), Text(texts()[180:]))


def trained(task, strategy, case, train):
    """Losses, norms, metrics and weights of a run of 12 steps, or as many as the case says."""
    num = case.get("steps", STEPS)
    model = strategy.place(task, task.build(3))
    optimizer = Optimizer(model, train.optim, num, task.roles)
    settings = loop.Settings(num, train.batch, train.microbatch, clip=0.5, evaluate_every=num // 2)
    steps, metrics = [], []

    def evaluate(_):
        with strategy.to_evaluate() as found:
            if found is not None:
                metrics.append(loop.evaluate(task, found))

    order = Order(task.num_rows, train.batch, 5)
    loop.train(task, model, strategy, optimizer, settings, order, loop.Position(), [steps.append], [(num // 2, evaluate)])
    weights = {name: tensor.detach().clone() for name, tensor in strategy.weights().items()}
    found = {"losses": [step.loss for step in steps], "norms": [step.norm for step in steps], "metrics": metrics}
    return found | {"right": [step.metrics.get("right", 0.0) for step in steps]}, weights


def attended(group):
    """How far attention of cut sequences with documents, and its gradients, are from torch's own on whole ones."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    drawn = torch.Generator().manual_seed(1)
    heads = (4, 2, 2)
    whole = {name: torch.randn(3, 24, num, 8, generator=drawn) for name, num in zip(("q", "k", "v"), heads, strict=True)}
    documents = torch.tensor([0] * 5 + [1] * 12 + [2] * 7).expand(3, 24)
    cut = {
        name: part.transpose(1, 2).requires_grad_() for name, part in context.cut(whole, ("q", "k", "v"), rank, size).items()
    }
    mask = context._mask_over(group)(context.cut({"d": documents}, ("d",), rank, size)["d"])
    seen = context._attend_over(group)(*cut.values(), mask)
    seen.square().sum().backward()
    expected = {name: part.transpose(1, 2).requires_grad_() for name, part in whole.items()}
    same = (documents[:, :, None] == documents[:, None]) & torch.ones(24, 24).tril().bool()
    other = F.scaled_dot_product_attention(*expected.values(), same[:, None], enable_gqa=True)
    other.square().sum().backward()
    pairs = {"seen": (seen, other)} | {name: (cut[name].grad, expected[name].grad) for name in whole}
    apart = {}
    for name, (ours, theirs) in pairs.items():
        own = context.cut({name: theirs.transpose(1, 2)}, (name,), rank, size)[name].transpose(1, 2)
        apart[name] = float(((ours - own).abs() / own.abs().clamp(min=1.0)).max())  # numbers of 10 are rounded to 1e-6
    return {"apart": apart}


def by_one(case, train, known={}):  # noqa: B006
    """What one process learns of a case; once for all meshes that it is compared with."""
    key = json.dumps({word: case[word] for word in sorted(case) if word not in ("parallel", "schedule", "sharding", "tables")})
    if key not in known:
        alone = Alone()
        alone.follows_rows = case.get("follows_rows", False)
        known[key] = trained(task_of(case), alone, case, msgspec.structs.replace(train, tables="replicate"))
    return known[key]


def run(case):
    if case["task"] == "attention":
        return attended(dist.group.WORLD)
    words = {key: case[key] for key in TRAIN & set(case)}
    optim = Optim(rate=case.get("rate", 5e-3), clip=0.5, warmup=2, **case.get("optim", {}))
    train = Train(batch=case.get("batch", BATCH), parallel=case["parallel"], optim=optim, **words)
    strategy = mesh.strategy_of(mesh.parse(case["parallel"]), train)
    found, weights = trained(task_of(case), strategy, case, train)
    strategy.close()
    if dist.get_rank() == 0:
        expected, own = by_one(case, train)
        found["expected"] = expected
        # attention's softmax does not see the bias of keys: its gradient is rounding alone, which Adam makes steps of
        seen = [name for name in own if not name.endswith("key.bias")]
        found["weights"] = max(float((weights[name] - own[name]).abs().max()) for name in seen)
        found["names"] = sorted(weights) == sorted(own)
    dist.barrier()
    return found


def main(folder, cases):
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size, timeout=timedelta(seconds=120))
    results = []
    for case in json.loads(cases):
        try:
            results.append(run(case))
        except GyralError as error:
            results.append({"error": type(error).__name__, "what": error.what, "hint": error.hint})
    if rank == 0:
        Path(folder, "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave()
