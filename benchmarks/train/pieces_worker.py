"""One rank of the benchmark of pipeline, context, expert and tables: as `mesh_worker`, with further ways.

    python pieces_worker.py FOLDER '["data=2", "pipeline=2 schedule=zbv", …]' WARM ROUNDS

A way is a mesh, then settings of `train`, then `experts` or `tables` for another model than the dense decoder.
"""

from __future__ import annotations

import sys
from typing import Any

import mesh_worker
import numpy as np
import torch
import torch.nn.functional as F
from mesh_worker import LENGTH, SEED, SHAPE, TEXT, Way
from torch import Tensor, nn

from gyral.config.training import Train
from gyral.model.nets.llama import Shape
from gyral.model.nets.tables import Table
from gyral.model.roles import Roles
from gyral.model.task import BaseTask, Batch, Gather, Sums, seeded
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train.loader import Order
from gyral.train.parallel import mesh
from gyral.train.parallel.strategy import Alone

SPARSE = Shape(SHAPE.vocab, 256, 3, 8, 8, 352, experts=8, experts_used=2)
"""8.0 M parameters, of which a token uses a third."""
BATCH = mesh_worker.BATCH = 8
"""Sequences a step, of the peer too; four stages need as many."""
IDS, WIDTH, BAG, ROWS = 62_500, 64, 20, 256


class Tower(nn.Module):
    """Two tables of 4 M numbers each and a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.object = Table(IDS, WIDTH, "mean"), Table(IDS, WIDTH, "none")
        self.hidden, self.out = nn.Linear(2 * WIDTH, 64), nn.Linear(64, 1)

    def forward(self, seen: Tensor, objects: Tensor) -> Tensor:
        x = torch.cat([self.seen(seen), self.object(objects)[:, 0]], dim=1)
        found: Tensor = self.out(F.relu(self.hidden(x))).sum(dim=1)
        return found


class Clicks(BaseTask):
    """Ids by Zipf's law, as those of clicks are."""

    name, num_rows = "clicks", 1 << 14
    roles = Roles(rules=(("seen", "table"), ("object", "table")))

    def __init__(self) -> None:
        self.ids = np.minimum(np.random.default_rng(SEED).zipf(1.2, (self.num_rows, BAG + 1)), IDS) - 1

    def build(self, seed: int) -> nn.Module:
        return seeded(seed, Tower)

    def batch(self, examples: np.ndarray, step: int) -> Batch:
        ids = self.ids[examples]
        label = (ids[:, 0] % 2).astype(np.float32)
        parts = {"seen": ids[:, 1:], "objects": ids[:, :1], "label": label}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in parts.items()}

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        return batch["seen"], batch["objects"]

    def sums(self, outputs: Any, batch: Batch, gather: Gather) -> Sums:
        loss = F.binary_cross_entropy_with_logits(outputs, batch["label"], reduction="sum")
        return Sums(loss, torch.tensor(float(len(outputs))))


class Piece(Way):
    """A way with settings, of one of three models."""

    def __init__(self, words: str) -> None:
        parallel, *settings = words.split()
        named = dict(word.split("=") for word in settings if "=" in word)
        size = ROWS if "clicks" in settings else BATCH
        if "clicks" in settings:
            self.task: Any = Clicks()
        else:
            texts = [path.read_bytes() for path in sorted(TEXT.iterdir()) if path.is_file() and not path.is_symlink()]
            self.task = NextToken(SPARSE if "experts" in settings else SHAPE, LENGTH, Text(texts))
        self.order = Order(self.task.num_rows, size, SEED)
        train = Train(parallel="" if parallel == "alone" else parallel, batch=size, **named)  # type: ignore[arg-type]
        self.strategy = mesh.strategy_of(mesh.parse(train.parallel), train)
        self.is_alone = isinstance(self.strategy, Alone) and self.strategy.num_ranks == 1
        self.model = self.strategy.place(self.task, self.task.build(SEED))
        self.optimizer = mesh_worker.Optimizer(self.model, mesh_worker.OPTIM, mesh_worker.STEPS)


if __name__ == "__main__":
    mesh_worker.Way = Piece  # type: ignore[misc]
    mesh_worker.main(*sys.argv[1:])
