"""How the kernels of a table are compiled: without the interpreter's lock, kept on disk, and not counting who holds an array.

The count is atomic, twice an array a call, and it is not taken out of loops with branches: a step of a row of 32 weights took
50 ns with it and takes 10 without. So a kernel allocates nothing, returns no array and makes no view: its caller brings all it
needs. Integer divisions by zero are the caller's to rule out (`error_model`: the test would keep loops from being vectors).

What is kept on disk is made anew when the kernel's own file changes, not when a `part` from another file does: whoever edits
one removes `__pycache__/*.nb?`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])
_FAST: Any = {"error_model": "numpy", "_nrt": False}


def kernel(function: Function) -> Function:
    """Compile what is called from Python."""
    compiled: Function = njit(nogil=True, cache=True, **_FAST)(function)
    return compiled


def part(function: Function) -> Function:
    """Compile what is written into the kernels that call it."""
    compiled: Function = njit(forceinline=True, **_FAST)(function)
    return compiled
