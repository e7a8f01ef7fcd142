"""How the kernels of this room are compiled, and the tables of bytes that they look up.

A table is a constant of the compiled code. numba's cache looks at a kernel's own file alone, so what is in a table is written
there and only the way it is made is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

Array = np.ndarray
signed: Any = np.int64
unsigned: Any = np.uint64
"""In compiled code an unsigned number and a signed one make a float: which one it is, is said. mypy need not know."""
Function = TypeVar("Function", bound=Callable[..., Any])
DIGITS = b"0123456789"
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def kernel(function: Function) -> Function:
    """Compile, without the GIL and kept on disk. Kernels make no arrays, so nobody counts who refers to one (`_nrt`)."""
    options: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}
    compiled: Function = njit(**options)(function)
    return compiled


def byte_table(*classes: bytes) -> Array:
    """A byte → the number of its class, from 1; 0: none; uint8 [256]."""
    return np.array([next((n for n, each in enumerate(classes, 1) if byte in each), 0) for byte in range(256)], np.uint8)


def packed(words: str) -> Array:
    """The last eight letters of each word, in one number; uint64."""
    return np.array([int.from_bytes(word.encode()[-8:], "big") for word in words.split()], np.uint64)
