"""A probe of this machine, and steps of language models on one core: predicted from the one before the other is run.

Five models in f32 (bytes and many tokens, narrow and wide, long and short), by CPU seconds of one thread (forward, backward,
AdamW), the least of some steps, so that a busy machine counts for little; decided where the load says that it was not. The
probe knows nothing of them. Baseline: one share of the probe's best product for all (the median of the other models), which is
what one utilization comes to.

Goal: 10 % on average.

Command: .venv/bin/python benchmarks/plan/laptop.py (a minute)
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"
import decide
import torch
from measure import write

from gyral.model.nets.llama import Llama, Shape
from gyral.plan import counters
from gyral.plan.axes import ADAM, Layout
from gyral.plan.probe import Measured, Probe, probe
from gyral.plan.steptime import step_time

MODELS = {  # shape, positions, rows
    "bytes, width 256": (Shape(257, 256, 4, 4, 4, 704), 256, 8),
    "4,096 tokens, width 128": (Shape(4096, 128, 2, 4, 4, 384), 128, 16),
    "bytes, width 512": (Shape(257, 512, 4, 8, 8, 1408), 256, 4),
    "32,000 tokens, width 256": (Shape(32_000, 256, 2, 8, 8, 704), 128, 8),
    "bytes, width 128, 64 positions": (Shape(257, 128, 6, 8, 8, 384), 64, 32),
}
STEPS, WITHIN = 9, 0.10


def main() -> None:
    torch.set_num_threads(1)
    begun, was_quiet = time.perf_counter(), decide.is_quiet()
    with tempfile.TemporaryDirectory() as folder:
        found = probe(Path(folder))
    took = time.perf_counter() - begun
    predicted = {name: predict(found, *each) for name, each in MODELS.items()}
    measured = {name: step_s(*each) for name, each in MODELS.items()}
    off = {name: predicted[name] / measured[name] - 1 for name in MODELS}
    work = {name: counters.flops(counters.llama(shape, length), rows).model for name, (shape, length, rows) in MODELS.items()}
    share = {name: work[name] / measured[name] / max(found.products["f32"]) for name in MODELS}
    others = {name: statistics.median(share[each] for each in MODELS if each != name) for name in MODELS}
    constant = {name: share[name] / others[name] - 1 for name in MODELS}
    mean, decided = statistics.mean(map(abs, off.values())), was_quiet and decide.is_quiet()
    for name, value in off.items():
        decide.row(name, value, WITHIN, decided)
    rounded = {name: round(value, 4) for name, value in off.items()}
    write(
        "plan_laptop",
        {
            "goal": {"mean": WITHIN, "row": decide.row("on average", mean, WITHIN, decided)},
            "probe_s": round(took, 1),
            "measured_cpu_s": {name: round(value, 4) for name, value in measured.items()},
            "off": {"mean": round(mean, 4), "each": rounded},
            "one_utilization": {"mean": round(statistics.mean(map(abs, constant.values())), 4)},
        },
    )


def predict(found: Probe, shape: Shape, length: int, rows: int) -> float:
    return step_time(counters.llama(shape, length), Layout(batch=rows, microbatch=rows), Measured(found), ADAM).total


def step_s(shape: Shape, length: int, rows: int) -> float:
    torch.manual_seed(0)
    model = Llama(shape)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens, positions = torch.randint(0, shape.vocab, (rows, length)), torch.arange(length).expand(rows, length)
    seconds = []
    for _ in range(STEPS):
        begun = time.thread_time()
        logits = model(tokens, positions).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, tokens.flatten(), reduction="sum").backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.thread_time() - begun)
    return min(seconds[1:])


if __name__ == "__main__":
    main()
