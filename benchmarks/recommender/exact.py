"""Exact search of 100,000 × 64 vectors without clusters: the int8 scan against torch's float32 product and `topk`.

Predicted before it was run: 2x at one query and 2.5x at 64 (a quarter of the bytes is read, `topk` over all scores falls away),
recall 1 by proof. Interleaved, CPU time of one thread, medians of the rounds.
Command: OMP_NUM_THREADS=1 .venv/bin/python benchmarks/recommender/exact.py [rounds] (a minute)
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

from gyral.model.retrieving.exact import Flat, Int8

NUM, WIDTH, K = 100_000, 64, 10
CALLS = {1: 30, 8: 8, 64: 3}


def decaying(num: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Vectors of length one without clusters."""
    made = random.normal(size=(num, width)) * np.arange(1, width + 1) ** -0.5
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def cpu_ms(call: Callable[[], object], times: int) -> float:
    """CPU milliseconds a call."""
    start = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - start) / times * 1e3


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    vectors, queries = decaying(NUM, WIDTH, random), decaying(512, WIDTH, random)
    start = time.thread_time()
    int8, flat = Int8(vectors), Flat(vectors)
    build = time.thread_time() - start
    rows = torch.from_numpy(vectors)

    def with_torch(some: np.ndarray) -> torch.Tensor:
        return torch.topk(torch.from_numpy(some) @ rows.t(), K).indices

    truth = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :K]
    found = int8.search(queries, K)[0]
    recall = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)]))
    told: dict[str, object] = {"recall": recall, "build_cpu_s": round(build, 3)}
    for batch, times in CALLS.items():
        some = queries[:batch]
        calls = {
            "torch": lambda: with_torch(some),  # noqa: B023
            "int8": lambda: int8.search(some, K),  # noqa: B023
            "flat": lambda: flat.search(some, K),  # noqa: B023
        }
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            call()
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 9):
            for name, call in calls.items():
                spent[name].append(cpu_ms(call, times))
        ms = {name: round(statistics.median(each), 3) for name, each in spent.items()}
        ratios = [one / other for one, other in zip(spent["torch"], spent["int8"], strict=True)]
        told[f"batch_{batch}"] = {"cpu_ms": ms, "torch_over_int8": round(statistics.median(ratios), 2)}
    write("recommender_exact", told)


main()
