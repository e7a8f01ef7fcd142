"""What leaves a device: how far its model moved, limited, and in int8 where asked for.

An update is always *dense*: every number of the model is sent, whatever the device met, because which rows it sends would tell
which objects it met. (Sparse rows would halve the bytes at best: bias and `answers` move in every row.)

int8 is made for sums. All devices of a round use one step, so codes may be added before anybody decodes them, and masked. To
make one step fit all values, an update is turned by a random rotation first (signs, then a Walsh–Hadamard matrix): whatever its
largest values were, it then looks like noise of its norm. Rounding is without bias. At 120,755 parameters the error of one
device is 1.5 % of the limit on its norm; without the rotation 26 %. It costs 3.7 ms a device.

Rounding moves a norm by at most `ROUNDED` of the limit; privacy is accounted with a limit that much larger.

Shapes: C devices, P parameters, R ≥ P the next power of two.

Source: Suresh et al., Distributed mean estimation with limited communication, ICML 2017, section 3; Kairouz, Liu and Steinke,
The distributed discrete Gaussian mechanism, ICML 2021 (the same before a secure sum).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LEVELS = 127
REACH = 5.0
"""Codes reach so many standard deviations of a rotated update: beyond are 6 values of ten million, which are cut off."""
ROUNDED = REACH / LEVELS
FACTOR = 64
"""The matrix is applied as a product of such small ones: 131,072 numbers take 2.4 ms."""


def clipped(moved_CP: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Updates no longer than a limit, and how long they were, [C]; a limit of 0 is none."""
    norm_C = torch.linalg.vector_norm(moved_CP, dim=1)
    if not limit:
        return moved_CP, norm_C
    return moved_CP * (limit / norm_C.clamp(min=limit))[:, None], norm_C


@dataclass(frozen=True)
class Rotation:
    """A random rotation that all devices of a round share.

    Attributes
    ----------
    size : P.
    seed, number : of the run, and of the round.
    """

    size: int
    seed: int
    number: int

    @property
    def padded(self) -> int:
        """R."""
        return 1 << max(self.size - 1, 0).bit_length()

    def there(self, moved_CP: Tensor) -> Tensor:
        """[C, P] → [C, R], norms kept."""
        wide = torch.nn.functional.pad(moved_CP, (0, self.padded - self.size))
        return hadamard(wide * self._signs())

    def back(self, rotated_CR: Tensor) -> Tensor:
        """[C, R] → [C, P]."""
        return (hadamard(rotated_CR) * self._signs())[:, : self.size]

    def _signs(self) -> Tensor:
        bits = np.random.default_rng((self.seed, self.number, 1)).integers(0, 2, self.padded, dtype=np.int8)
        return torch.from_numpy(bits).to(torch.float32) * 2 - 1


def step_of(padded: int) -> float:
    """Between two codes, where no update is longer than 1."""
    return float(REACH / (LEVELS * padded**0.5))


def encoded(rotated_CR: Tensor, step_C1: Tensor, seeds: np.ndarray) -> Tensor:
    """Codes, int8 [C, R], rounded up or down so that they are right on average.

    Parameters
    ----------
    seeds : of each device's rounding, int64 [C, S].
    """
    drawn = np.stack([np.random.default_rng(each).random(rotated_CR.shape[1], dtype=np.float32) for each in seeds.tolist()])
    codes = torch.floor(rotated_CR / step_C1 + torch.from_numpy(drawn))
    return codes.clamp(-LEVELS, LEVELS).to(torch.int8)


def hadamard(x_CR: Tensor) -> Tensor:
    """Times the Walsh–Hadamard matrix over √R, which is its own inverse; R is a power of two."""
    rows, size = x_CR.shape
    right = size
    while right > 1:
        factor = min(FACTOR, right)
        right //= factor
        x_CR = (_matrix(factor) @ x_CR.reshape(rows, -1, factor, right)).reshape(rows, size)
    return torch.div(x_CR, size**0.5)


def _matrix(size: int) -> Tensor:
    found = torch.ones(1, 1)
    while len(found) < size:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
    return found
