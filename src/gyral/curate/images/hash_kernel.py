"""Numbers out of grey pictures: the 64-bit DCT hash, sharpness, entropy.

The hash is pHash as the library imagehash defines it: DCT-II of 32 × 32 grey pixels along both axes, the 8 × 8 lowest
frequencies (the mean of the picture is one of them), a bit where a coefficient lies above their median; rows first, the first
bit highest. On the same 32 × 32 pixels all bits are the same, but where coefficients are equal to the last digit of a float: a
picture of one colour has 63 of those, whose sum here is exactly zero, so that its hash is always the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

SIDE, LOW = 32, 8
Array = np.ndarray

_COSINES = np.array([[math.cos(math.pi * k * (2 * n + 1) / (2 * SIDE)) for n in range(SIDE)] for k in range(LOW)])
_EXACT = 1e-7
"""Coefficients are sums of 1,024 products of at most 255: smaller than this is the error of the sum (about 1e-10)."""
Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile, once for all processes, and let other threads run."""
    options: dict[str, Any] = {"cache": True, "nogil": True}
    compiled: Function = njit(**options)(function)
    return compiled


@kernel
def phash(grey: Array) -> np.uint64:
    """Hash of a grey picture, uint8 [32, 32].

    Source
    ------
    Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.3, with the low frequencies
    beginning at the mean, as in imagehash.
    """
    halves = np.empty((LOW, SIDE))
    for k in range(LOW):
        for x in range(SIDE):
            total = 0.0
            for y in range(SIDE):
                total += _COSINES[k, y] * grey[y, x]
            halves[k, x] = total
    coefficients = np.empty(LOW * LOW)
    for k in range(LOW):
        for j in range(LOW):
            total = 0.0
            for x in range(SIDE):
                total += halves[k, x] * _COSINES[j, x]
            coefficients[k * LOW + j] = 0.0 if abs(total) < _EXACT else total
    ranked = np.sort(coefficients)
    median = (ranked[31] + ranked[32]) / 2
    bits = np.uint64(0)
    for place in range(LOW * LOW):
        bits = (bits << np.uint64(1)) | np.uint64(coefficients[place] > median)
    return bits


@kernel
def measure(grey: Array) -> tuple[float, float, float]:
    """Sharpness, entropy and brightness of a grey picture, uint8 [height, width].

    Returns
    -------
    blur : variance of the Laplacian (4 neighbours) inside; the lower, the more blurred. 0 where a side has less than 3 pixels.
    entropy : of the grey values, bits, 0 to 8.
    brightness : mean grey, 0 to 255.

    Source
    ------
    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study", section 3 (LAPV).
    """
    height, width = grey.shape
    counts = np.zeros((2, 256), np.int64)  # two, so that equal neighbours do not wait for each other
    for y in range(height):
        row = grey[y]
        for x in range(width):
            counts[x & 1, row[x]] += 1
    total = height * width
    entropy, brightness = 0.0, 0.0
    for value in range(256):
        count = counts[0, value] + counts[1, value]
        if count:
            share = count / total
            entropy -= share * math.log2(share)
            brightness += share * value
    inside: Any = 0
    squares: Any = 0
    for y in range(1, height - 1):
        above, row, below = grey[y - 1], grey[y], grey[y + 1]
        for x in range(1, width - 1):
            edge = (
                np.int32(above[x])
                + np.int32(below[x])
                + np.int32(row[x - 1])
                + np.int32(row[x + 1])
                - np.int32(4) * np.int32(row[x])
            )
            inside += edge
            squares += edge * edge
    count = max(height - 2, 0) * max(width - 2, 0)
    blur = 0.0 if count == 0 else squares / count - (inside / count) ** 2
    return blur, entropy, brightness


@kernel
def on_white(picture: Array) -> Array:
    """A picture with alpha, uint8 [height, width, 4], as it looks on white: uint8 [height, width, 3]."""
    height, width, _ = picture.shape
    flat = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            alpha = np.uint32(picture[y, x, 3])
            for channel in range(3):
                flat[y, x, channel] = (picture[y, x, channel] * alpha + np.uint32(255) * (np.uint32(255) - alpha) + 127) // 255
    return flat
