"""How a way to multiply is tried before it is trusted: how wrong it is, and how long it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TIMES = 7


def error(found_BM: Tensor, x_BN: Tensor, dense_MN: Tensor) -> float:
    """Of the whole result, relative to the product in float64."""
    truth = x_BN.double() @ dense_MN.double().t()
    return float((found_BM.double() - truth).norm() / truth.norm().clamp(min=1e-300))


def seconds(multiply: Callable[..., Tensor], x_BN: Tensor, *prepared: Any) -> float:
    """The least of some runs, by the clock of this thread where that is all there is: others share the machine."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    least = math.inf
    for _ in range(TIMES):
        begin = clock()
        multiply(x_BN, *prepared)
        least = min(least, clock() - begin)
    return max(least, 1e-9)
