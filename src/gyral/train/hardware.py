"""What one rank could compute at best, measured at the start of a run: the peak that a share of it (MFU) is told against.

A square matrix product of 1,024 rows, which is large enough to be limited by arithmetic and not by memory; the best of some, by
the CPU time of the thread where there is one and by the clock where there are several. 0.2 s in all on a core of 90 GFLOP/s,
and never more than 0.5 s. A data sheet's number would be the wrong one: clocks, vector units and neighbours differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import torch

ROWS = 1024
SMALL_ROWS = 256
"""For a type that the processor has no instructions for: it is told from this."""
BUDGET_S = 0.1


class Peak(msgspec.Struct, frozen=True):
    """FLOP/s of a matrix product by all threads of one rank."""

    f32: float
    bf16: float
    threads: int

    def of(self, precision: str) -> float:
        """The peak that a run of this precision is measured against."""
        return self.bf16 if precision == "bf16" else self.f32


def measure() -> Peak:
    """Measure both types."""
    threads = torch.get_num_threads()
    clock = time.thread_time if threads == 1 else time.perf_counter
    return Peak(_gemm(torch.float32, clock), _gemm(torch.bfloat16, clock), threads)


def _gemm(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """Best FLOP/s of a few products."""
    rate, generator = 0.0, torch.Generator().manual_seed(0)
    for rows in (SMALL_ROWS, ROWS):
        flops = 2.0 * rows**3
        if rate and flops / rate > 2 * BUDGET_S:
            break
        left, right = (torch.rand(rows, rows, generator=generator).to(dtype) for _ in range(2))
        out = torch.empty(rows, rows, dtype=dtype)
        end = time.perf_counter() + BUDGET_S
        rate = 0.0
        for number in range(100):
            begun = clock()
            torch.mm(left, right, out=out)
            if number:  # the first one packs and warms up
                rate = max(rate, flops / max(clock() - begun, 1e-9))
            if number and time.perf_counter() > end:
                break
    return rate
