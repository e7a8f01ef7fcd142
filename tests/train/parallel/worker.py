"""One rank of a test: trains the tasks below on one mesh after the other inside one process group, and writes what came out.

python worker.py FOLDER CASES       a case is {"task": …, "parallel": …, and words of `Train`}; rank 0 also trains each alone
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
from torch.distributed.tensor import DTensor

from gyral.config.training import Optim, Train
from gyral.engine.ranks import leave
from gyral.errors import GyralError
from gyral.model import augment
from gyral.model.nets import captions, vit
from gyral.model.nets.llama import Shape
from gyral.model.nets.masked import DecoderShape
from gyral.model.pictures import Pictures
from gyral.model.roles import Roles
from gyral.model.task import BaseTask, Sums, seeded
from gyral.model.tasks import contrastive as pairs
from gyral.model.tasks.distill_self import SelfDistilled, Teaching
from gyral.model.tasks.masked import Masked
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train import loop
from gyral.train.blocks import prepare
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel import mesh
from gyral.train.parallel.meshed import Meshed
from gyral.train.parallel.strategy import Alone

STEPS, BATCH, LENGTH = 12, 8, 24
WORDS = "the gyre turns and what it carries comes back another day in other waters under other names".split()  # noqa: SIM905


def texts():
    drawn = np.random.default_rng(0)
    return [" ".join(drawn.choice(WORDS, 40)).encode() for _ in range(80)]


class Towers(nn.Module):
    """Two towers with biases, a scale of its own, and blocks under other names than a decoder's."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.layers = nn.ModuleList([Feed() for _ in range(2)])
        self.norm = nn.LayerNorm(16)

    def forward(self, left, right):
        pair = []
        for x in (left, right):
            for layer in self.layers:
                x = layer(x)
            pair.append(F.normalize(self.norm(x), dim=-1))
        return pair[0] * self.scale.exp(), pair[1]


class Feed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 30), nn.Linear(30, 16)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


class Contrastive(BaseTask):
    """InfoNCE between two noisy views: every row is compared with those of all ranks."""

    name = "contrastive"
    cross_sample = True
    num_rows = 200
    roles = Roles(rules=(("layers.*.up", "column"), ("layers.*.down", "row")), blocks="layers")

    def build(self, seed):
        return seeded(seed, Towers)

    def batch(self, examples, step):
        rows = [
            np.random.default_rng((7, example)).normal(size=(2, 16)) * 0.5 + np.eye(16)[example % 16] for example in examples
        ]
        both = torch.tensor(np.stack(rows) if rows else np.zeros((0, 2, 16)), dtype=torch.float32)
        return {"left": both[:, 0], "right": both[:, 1]}

    def inputs(self, batch):
        return batch["left"], batch["right"]

    def sums(self, outputs, batch, gather):
        left, right = outputs
        everyone = gather(right)
        first = self.part.cut(len(everyone))[0]
        loss = F.cross_entropy(left @ everyone.T, torch.arange(len(left)) + first, reduction="sum")
        return Sums(loss, torch.tensor(float(len(left))))


class Unlike(Contrastive):
    """A model that is another one on each rank."""

    def build(self, seed):
        return seeded(seed + dist.get_rank(), Towers)


def of_pictures(case):
    """A real task of the family `vision` on drawn pictures of twelve concepts."""
    drawn = np.random.default_rng(1)
    pixels = drawn.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    names = [f"{word} {language}" for word in WORDS[:12] for language in ("de", "en")]
    known = Pictures(
        pixels, [f"{at}.png" for at in range(24)], np.arange(24) % 12, names, ["de", "en"] * 12, np.repeat(np.arange(12), 2)
    )
    tower, seen = vit.Shape(8, 4, 16, 2, 4, 32), augment.Recipe((0.7, 1.0), jitter=0.3)
    if case["task"] == "masked":
        return Masked(tower, DecoderShape(16, 1, 4), 0.5, known, known, seen, 0)
    if case["task"] == "self_distilled":
        teaching = Teaching(prototypes=16, hidden=16, narrow=8, parts=2, part_side=4)
        return SelfDistilled(tower, teaching, known, known, seen, augment.Recipe((0.2, 0.5)), 0)
    caption, kind = captions.Shape(64, 16, 1, 4, 32), case.get("loss", "siglip")
    return pairs.Contrastive(tower, caption, 8, known, known, seen, 0, kind, rows=10, several=2, alike=1.0, joined=True)


def task_of(case):
    if case["task"] in ("pairs", "masked", "self_distilled"):
        return of_pictures(case)
    if case["task"] == "unlike":
        return Unlike()
    if case["task"] == "contrastive":
        return Contrastive()
    heads = case.get("heads", 4)
    shape = Shape(257, 32, 2, heads, case.get("kv_heads", heads), 44, case.get("tied", True))
    return NextToken(shape, LENGTH, Text(texts()[:60]), Text(texts()[60:]))


def trained(task, strategy, case, train):
    """Losses, norms, metrics and weights of a run of 12 steps."""
    batch = case.get("batch", BATCH)
    if isinstance(task, Contrastive):
        task.part = strategy.settle(0)
    model = strategy.place(task, prepare(task.build(3), task.roles, train))
    optimizer = Optimizer(model, Optim(rate=3e-3, clip=0.5, warmup=2), STEPS)
    settings = loop.Settings(STEPS, batch, train.microbatch, clip=0.5, evaluate_every=6)
    steps, metrics = [], []

    def evaluate(_):
        with strategy.to_evaluate() as evaluated:
            if evaluated is not None:
                metrics.append(loop.evaluate(task, evaluated))
        if "shard" in case["parallel"] and isinstance(strategy, Meshed):  # a checkpoint may be written now
            assert all(isinstance(param, DTensor) for param in model.parameters())

    order = Order(task.num_rows, batch, 5)
    loop.train(task, model, strategy, optimizer, settings, order, loop.Position(), [steps.append], [(6, evaluate)])
    weights = {name: tensor.detach().clone() for name, tensor in strategy.weights().items()}
    return {"losses": [step.loss for step in steps], "norms": [step.norm for step in steps], "metrics": metrics}, weights


def run(case):
    words = {key: case[key] for key in ("microbatch", "sharding", "recompute", "precision") if key in case}
    train = Train(batch=case.get("batch", BATCH), parallel=case["parallel"], **words)
    strategy = mesh.strategy_of(mesh.parse(case["parallel"]), train)
    found, weights = trained(task_of(case), strategy, case, train)
    strategy.close()
    if dist.get_rank() == 0:
        alone = Alone()
        expected, own = trained(
            task_of(case), alone, case, msgspec.structs.replace(train, microbatch=case.get("microbatch", 0))
        )
        found["expected"] = expected
        # softmax does not see the bias of keys: its gradient is rounding alone, of which Adam makes whole steps
        compared = [name for name in own if not name.endswith("key.bias")]
        found["weights"] = max(float((weights[name] - own[name]).abs().max()) for name in compared)
        found["names"] = sorted(weights) == sorted(own)
    dist.barrier()
    return found


def main(folder, cases):
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size, timeout=timedelta(seconds=60))
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
