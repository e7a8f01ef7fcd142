"""What a step costs by the size of a table: 1e4, 1e5, 1e6 rows of 64 numbers, 4,096 ids a step, one thread.

Four ways, interleaved, CPU time of whole steps (forward, backward, norm, update) after a warm-up, medians:

    rowwise_adagrad    `train.optim.tables = "rowwise_adagrad"`: gyral's strategy, clipping and optimizer
    sparse_adam        torch's `nn.Embedding(sparse=True)` with `SparseAdam`, the rest by AdamW; nothing is clipped, because
                       torch has no norm for its sparse gradients
    sparse_sgd         the same table with `SGD`, which keeps nothing a row: the least that torch can do
    adamw              `train.optim.tables = "adamw"`: the whole table, each step

Ids are drawn evenly, so distinct ones a step are 3,360 of 1e4 and 4,088 of 1e6: a step may cost a fifth more there at best.

Prediction before measuring: rowwise_adagrad from 1e4 to 1e6 at most 1.5x (cache misses: 2.6 MB fit into the second-level cache,
256 MB do not), and at most .7 of sparse_adam's time; adamw 60x to 100x.

Command: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recommender/tables.py (about four minutes)
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
import torch.nn.functional as F
from measure import write
from torch import Tensor, nn

from gyral.config.training import Optim
from gyral.model.roles import Roles
from gyral.model.task import BaseTask, Batch, Gather, Sums
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone

SIZES = (10_000, 100_000, 1_000_000)
WIDTH, ROWS, IDS = 64, 512, 8
WARMUP, STEPS, ROUNDS = 3, 10, 7
SLOW_STEPS = 2
"""Of the way whose step is a whole table's."""
SEED = 0


class Net(nn.Module):
    """The mean of some vectors, and two layers."""

    def __init__(self, num: int, is_sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(num, WIDTH, sparse=is_sparse)
        self.up, self.out = nn.Linear(WIDTH, 64), nn.Linear(64, 1)

    def forward(self, ids_BL: Tensor) -> Tensor:
        found: Tensor = self.out(F.relu(self.up(self.table(ids_BL).mean(1)))).squeeze(1)
        return found


class Rows(BaseTask):
    """Labels of bags."""

    name = "rows"
    roles = Roles(rules=(("table", "table"),))

    def sums(self, outputs: Tensor, batch: Batch, gather: Gather) -> Sums:
        """Log loss."""
        loss = F.binary_cross_entropy_with_logits(outputs, batch["label"], reduction="sum")
        return Sums(loss, torch.tensor(float(len(outputs))))


def batches(num: int) -> list[Batch]:
    drawn = torch.Generator().manual_seed(SEED)
    return [
        {
            "inputs": torch.randint(0, num, (ROWS, IDS), generator=drawn),
            "label": torch.randint(0, 2, (ROWS,), generator=drawn).float(),
        }
        for _ in range(STEPS)
    ]


def ours(num: int, tables: str) -> Callable[[Batch], None]:
    """One step as the loop makes it."""
    torch.manual_seed(SEED)
    strategy = Alone()
    strategy.follows_rows = tables == "rowwise_adagrad"
    task = Rows()
    model = strategy.place(task, Net(num, is_sparse=False))
    optimizer = Optimizer(model, Optim(tables=tables, rate=1e-3, warmup=0, schedule="constant"), 1000, task.roles)  # type: ignore[arg-type]

    def step(batch: Batch) -> None:
        strategy.reduce(strategy.forward_backward([batch]))
        strategy.clip(1.0)
        optimizer.step(0)
        optimizer.zero_grad()

    return step


def peer(num: int, is_adam: bool) -> Callable[[Batch], None]:
    """One step by torch's own sparse gradients."""
    torch.manual_seed(SEED)
    model = Net(num, is_sparse=True)
    table, *dense = model.parameters()
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, lr=1e-3, fused=True)]
    made.append(torch.optim.SparseAdam([table], lr=1e-3) if is_adam else torch.optim.SGD([table], lr=1e-3))

    def step(batch: Batch) -> None:
        F.binary_cross_entropy_with_logits(model(batch["inputs"]), batch["label"]).backward()
        for each in made:
            each.step()
            each.zero_grad()

    return step


def main() -> None:
    told: dict[str, dict[str, Any]] = {}
    for num in SIZES:
        ways = {
            "rowwise_adagrad": ours(num, "rowwise_adagrad"),
            "sparse_adam": peer(num, is_adam=True),
            "sparse_sgd": peer(num, is_adam=False),
            "adamw": ours(num, "adamw"),
        }
        drawn, values = batches(num), {name: [] for name in ways}  # type: dict[str, list[float]]
        for number in range(WARMUP + ROUNDS):
            for name, step in ways.items():
                some = drawn[: SLOW_STEPS if name == "adamw" and num > 10_000 else STEPS]
                start = time.process_time()
                for batch in some:
                    step(batch)
                if number >= WARMUP:
                    values[name].append((time.process_time() - start) / len(some) * 1e3)
        told[str(num)] = {name: round(statistics.median(every), 3) for name, every in values.items()}
        told[str(num)]["least"] = {name: round(min(every), 3) for name, every in values.items()}
        print(num, told[str(num)], file=sys.stderr)
    first, last = (told[str(num)] for num in (SIZES[0], SIZES[-1]))
    write(
        "recommender_tables",
        {
            "cpu_ms_a_step": told,
            "growth_1e4_to_1e6": {name: round(last[name] / first[name], 2) for name in first if name != "least"},
            "of_sparse_adam": {num: round(each["rowwise_adagrad"] / each["sparse_adam"], 3) for num, each in told.items()},
            "kept_beside_weights_mb_at_1e6": {"rowwise_adagrad": 4, "sparse_adam": 512, "adamw": 512},
            "ids_a_step": ROWS * IDS,
            "width": WIDTH,
            "seed": SEED,
        },
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
