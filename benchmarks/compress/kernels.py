"""Milliseconds of each kernel that multiplies with packed weights, at 1, 8, 32 and 128 rows, and what a load takes of them.

The shapes are SmolLM2's (576 × 576, 1536 × 576, 576 × 1536, 49,152 × 576). CPU time of one thread, the least of some runs, the
kernels in turn; the peer of the same run is `torch.nn.functional.linear` in float32 and in bf16, and torchao's own dynamic int8
where it is installed (its wheel has no kernels for processors).

Written before measuring: at 1 row int4 and int8 take a third of float32 or less, at 8 rows dynamic int8 a fourth, int4 no less
than half; at 32 rows int4 loses to float32.

Command: .venv/bin/python benchmarks/compress/kernels.py (one CPU-minute)
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from measure import write

from gyral.model.quant.kernels import KERNELS, PLAIN, choose
from gyral.model.quant.packing import to_bf16, to_int4, to_int8

SHAPES = ((576, 576), (192, 576), (1536, 576), (576, 1536), (49_152, 576))
ROWS, ROUNDS = (1, 8, 32, 128), 3


def least_s(calls: dict[str, Callable[[], Any]], times: int) -> dict[str, float]:
    """The least CPU time of each, taken in turn."""
    least = dict.fromkeys(calls, math.inf)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.thread_time()
            for _ in range(times):
                call()
            least[name] = min(least[name], (time.thread_time() - begin) / times)
    return least


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    for shape in SHAPES:
        matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        packed = {"int8": to_int8(matrix), "int4": to_int4(matrix), "bf16": to_bf16(matrix)}
        ways = [(kernel, kernel.prepare(packed[kernel.kind])) for kernel in KERNELS if kernel.kind]
        dense = torch.from_numpy(matrix)
        for rows in ROWS:
            x = torch.randn(rows, shape[1])
            calls: dict[str, Callable[[], Any]] = {"float32": lambda x=x, dense=dense: torch.nn.functional.linear(x, dense)}
            for kernel, prepared in ways:
                calls[kernel.name] = lambda x=x, kernel=kernel, prepared=prepared: kernel.multiply(x, *prepared)
            times = max(1, min(30, round(3e8 / (shape[0] * shape[1] * rows))))
            found = least_s(calls, times)
            key = f"{shape[0]}x{shape[1]} M={rows}"
            told[key] = {name: round(1e3 * value, 4) for name, value in found.items()}
            print(key, told[key], file=sys.stderr)
        taken = {kind: choose(each) for kind, each in packed.items()}
        told[f"{shape[0]}x{shape[1]} taken"] = {
            kind: [each.kernel.name, round(each.share, 3), each.refused] for kind, each in taken.items()
        }
        print(told[f"{shape[0]}x{shape[1]} taken"], PLAIN.name, file=sys.stderr)
    write("compress_kernels", {"ms": told})


if __name__ == "__main__":
    main()
