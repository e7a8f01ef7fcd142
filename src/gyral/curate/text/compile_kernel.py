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
_OPTIONS: dict[str, Any] = {"nogil": True, "_nrt": False}
DIGITS = b"0123456789"
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def kernel(function: Function) -> Function:
    """Compile, without the GIL and kept on disk. Kernels make no arrays, so nobody counts who refers to one (`_nrt`)."""
    compiled: Function = njit(cache=True, **_OPTIONS)(function)
    return compiled


def kernel_of_others(function: Function) -> Function:
    """Compile what only kernels call: it is kept on disk as a part of them."""
    compiled: Function = njit(**_OPTIONS)(function)
    return compiled


def byte_table(*classes: bytes) -> Array:
    """A byte → the number of its class, from 1; 0: none; uint8 [256]."""
    return np.array([next((n for n, each in enumerate(classes, 1) if byte in each), 0) for byte in range(256)], np.uint8)


def packed(words: str) -> Array:
    """The last eight letters of each word, in one number; uint64."""
    return np.array([int.from_bytes(word.encode()[-8:], "big") for word in words.split()], np.uint64)


def skipper(table: Array) -> Callable[[Array, int, int], int]:
    """A kernel `(data, place, end)`: the next byte whose class in the table is not 0, or `end`; eight bytes at a time."""

    @kernel_of_others
    def skip(data: Array, place: int, end: int) -> int:
        at, stop, eight, one = np.uint64(place), np.uint64(end), np.uint64(8), np.uint64(1)
        while at + eight <= stop:
            found = table[data[at]] | table[data[at + one]] | table[data[at + np.uint64(2)]]
            found |= table[data[at + np.uint64(3)]] | table[data[at + np.uint64(4)]] | table[data[at + np.uint64(5)]]
            found |= table[data[at + np.uint64(6)]] | table[data[at + np.uint64(7)]]
            if found:
                break
            at += eight
        while at < stop and table[data[at]] == 0:
            at += one
        return signed(at)  # type: ignore[no-any-return]

    return skip
