"""How kernels of the nets are compiled: without the interpreter's lock, kept on disk, and with sums in any order.

Numbers may be added in another order than they are written in, so that loops become vectors: results agree to float32's
rounding, not to the bit. Those of the parameter server's tables, which do, are compiled by `gyral.params.kernel`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "_nrt": False,
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
}


def kernel(function: Function) -> Function:
    """Compile what is called from Python."""
    compiled: Function = njit(cache=True, **_OPTIONS)(function)
    return compiled


def part(function: Function) -> Function:
    """Compile what is written into the kernels that call it."""
    compiled: Function = njit(forceinline=True, **_OPTIONS)(function)
    return compiled
