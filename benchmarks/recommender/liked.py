"""MovieLens-100K in time order: will this user give this film four stars or more? 80 % are learned, the last 20 % asked.

DCN-v2 and DLRM of the task `recommender/ranking` against peers trained by the same loop on the same rows, numbers and steps:
logistic regression on ids, the same with the counted numbers, and matrix factorization of the same width. Nothing is refreshed:
most of the asked users are new. The passes are chosen on the last eighth of the learned part (two, four, eight were tried).
Three seeds. AUC and log loss; the share of yes alone has the log loss `prior`.

Prediction before measuring: AUC .70 for DCN-v2 and DLRM, .67 for matrix factorization, .69 for logistic regression with
numbers.

Command: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recommender/liked.py (about three CPU-minutes)
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
import pyarrow as pa
import torch
from measure import write
from ml100k import SOURCE, ratings
from torch import Tensor, nn

from gyral.config.training import Optim
from gyral.ingest.sources import open_source
from gyral.model.counted import NUM
from gyral.model.nets.interaction import Shape
from gyral.model.recommender import Interactions
from gyral.model.task import seeded
from gyral.model.tasks.ranking import Ranking
from gyral.train import loop
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone

SEEDS = (0, 1, 2)
BATCH, WIDTH = 256, 16
TRIED = (2, 4, 8)


class Linear(nn.Module):
    """Biases of ids, with or without numbers, with or without a product of vectors."""

    def __init__(self, shape: Shape, numbers: bool, width: int) -> None:
        super().__init__()
        self.subjects, self.objects = nn.Embedding(shape.subjects + 1, 1 + width), nn.Embedding(shape.objects, 1 + width)
        nn.init.normal_(self.subjects.weight, std=0.05)
        nn.init.normal_(self.objects.weight, std=0.05)
        self.numbers = nn.Linear(NUM, 1) if numbers else None
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, subjects: Tensor, _c: Tensor, objects: Tensor, numbers: Tensor, _k: Tensor | None = None) -> Tensor:
        one, other = self.subjects(subjects + 1), self.objects(objects)
        logit = self.bias + one[:, 0] + other[:, 0] + (one[:, 1:] * other[:, 1:]).sum(-1)
        return logit if self.numbers is None else logit + self.numbers(numbers).squeeze(-1)


PEERS = {"lr": (False, 0), "lr_numbers": (True, 0), "mf": (False, WIDTH)}


def liked() -> np.ndarray:
    """Whether each rating is four stars or more, in the order of `ratings`."""
    table = pa.Table.from_batches([rows.batch for rows in open_source(SOURCE, Path(), print).batches(1 << 20)])
    moment = table["timestamp:float"].to_numpy().astype(float)
    return table["rating:float"].to_numpy().astype(float)[np.argsort(moment, kind="stable")] >= 4


def one(data: Interactions, labels: np.ndarray, learned: int, name: str, seed: int, passes: int) -> dict[str, float]:
    kind = "dlrm" if name == "dlrm" else "dcn"
    sizes = (data.num_subjects, 0, data.num_objects, NUM, WIDTH, 64, 2)
    task = Ranking(Shape(*sizes, 0.1, 2, kind), data, learned, seed, labels=labels)  # type: ignore[arg-type]
    build = task.build if name not in PEERS else lambda seed: seeded(seed, lambda: Linear(task.shape, *PEERS[name]))
    strategy = Alone()
    model = strategy.place(task, build(seed))
    steps = passes * learned // BATCH
    optimizer = Optimizer(model, Optim(rate=3e-3, weight_decay=0.1), steps)
    start = time.process_time()
    loop.train(task, model, strategy, optimizer, loop.Settings(steps, BATCH), Order(learned, BATCH, seed), loop.Position())
    cpu_s = time.process_time() - start
    return {**loop.evaluate(task, model), "cpu_s": cpu_s}


def main() -> None:
    torch.set_num_threads(1)
    data, labels = ratings(), liked()
    learned = int(0.8 * len(data))
    part = data.where(np.arange(len(data)) < learned)
    tried = {
        str(passes): {
            name: round(one(part, labels[:learned], int(0.875 * learned), name, 0, passes)["auc"], 4)
            for name in ("dcn", "dlrm", *PEERS)
        }
        for passes in TRIED
    }
    passes = {name: max(TRIED, key=lambda each: tried[str(each)][name]) for name in ("dcn", "dlrm", *PEERS)}
    told: dict[str, Any] = {}
    for name in ("dcn", "dlrm", *PEERS):
        runs = [one(data, labels, learned, name, seed, passes[name]) for seed in SEEDS]
        told[name] = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
        told[name]["auc_seeds"] = [round(run["auc"], 4) for run in runs]
    share, asked = labels[:learned].mean(), labels[learned:]
    prior = -float(np.log(np.where(asked, share, 1 - share)).mean())
    write(
        "recommender_liked", {**told, "prior_log_loss": round(prior, 4), "passes": passes, "auc_on_validation_by_passes": tried}
    )


if __name__ == "__main__":
    main()
