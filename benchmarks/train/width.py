"""Whether the best rate found at a small width holds at one four times larger, with `train.optim.base_width` and without.

Sweep of rates (factors of two) of a two-block Llama on this repository's documents (bytes): mean loss of the last 20 of 150
steps, WSD, width 32 and 128 (`WIDTHS=64,256` for larger ones), two seeds. The peer is the standard parametrization: the same
code without `base_width`.

Written before measuring: without it the best rate falls by a factor of 2 to 4, with it it stays within a factor of 2, and the
larger model is better than the small one at the rate that was best for the small one.
Command: .venv/bin/python benchmarks/train/width.py (two CPU-minutes; eight for 64,256)
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import ROOT, write

WIDTHS = [int(width) for width in os.environ.get("WIDTHS", "32,128").split(",")]
POWERS = [int(power) for power in os.environ.get("POWERS", "5,6,7,8,9,10").split(",")]
STEPS, SEEDS = int(os.environ.get("STEPS", "150")), int(os.environ.get("SEEDS", "2"))
NAME = os.environ.get("OPTIMIZER", "adamw")


def texts() -> Any:
    from gyral.model.tasks.next_token import Text

    paths = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "dev/LOG.md", ROOT / "README.md"])
    return Text([path.read_bytes() for path in paths])


def loss(text: Any, width: int, rate: float, base_width: int, seed: int) -> float:
    """Loss of the last steps; infinity when the run was refused."""
    from gyral.config.training import Optim
    from gyral.errors import QualityError
    from gyral.model.nets.llama import Shape
    from gyral.model.tasks.next_token import NextToken
    from gyral.train import loop
    from gyral.train.loader import Order
    from gyral.train.optim import Optimizer, scale_initial
    from gyral.train.parallel.strategy import Alone

    heads = max(1, width // 16)
    task = NextToken(Shape(257, width, 2, heads, heads, width * 2, tied=False), 64, text)
    config = Optim(name=NAME, rate=rate, base_width=base_width, warmup=15, schedule="wsd", decay=0.3)  # type: ignore[arg-type]
    model, strategy = task.build(seed), Alone()
    scale_initial(model, config, task.roles)
    strategy.place(task, model)
    losses: list[float] = []
    order, settings = Order(task.num_rows, 8, seed), loop.Settings(STEPS, 8)
    optimizer = Optimizer(model, config, STEPS, task.roles)
    try:
        loop.train(task, model, strategy, optimizer, settings, order, loop.Position(), [lambda step: losses.append(step.loss)])
    except QualityError:
        return math.inf
    return sum(losses[-20:]) / 20


def main() -> None:
    import torch

    torch.set_num_threads(1)
    text, found = texts(), {}
    for kind, base_width in (("scaled", WIDTHS[0]), ("standard", 0)):
        found[kind] = {
            width: [
                round(sum(loss(text, width, 2.0**-power, base_width, seed) for seed in range(SEEDS)) / SEEDS, 4)
                for power in POWERS
            ]
            for width in WIDTHS
        }
        print(kind, found[kind], file=sys.stderr, flush=True)
    best = {kind: [POWERS[row.index(min(row))] for row in rows.values()] for kind, rows in found.items()}
    moved = {kind: 2 ** (powers[-1] - powers[0]) for kind, powers in best.items()}
    write("train_width", {"optimizer": NAME, "powers": POWERS, "loss": found, "best_power": best, "best_rate_fell_by": moved})


if __name__ == "__main__":
    main()
