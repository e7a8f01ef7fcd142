"""Keys that were asked for together, each once, and the sums of their gradients: what a table and a layer both begin with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.params import batch_kernel as kernel


class Batch(NamedTuple):
    """K keys, U of them different.

    Attributes
    ----------
    keys, hashes : int64 [U] and uint64 [U], in order of first occurrence.
    where : uint32 [U], place of the first occurrence; the top bit is set where there are more.
    inverse : uint32 [K], which of the U each is.
    repeated : how many of the U occur more than once.
    """

    keys: np.ndarray
    hashes: np.ndarray
    where: np.ndarray
    inverse: np.ndarray
    repeated: int

    @property
    def first(self) -> np.ndarray:
        """Place of each different key's first occurrence, uint32 [U]."""
        return self.where & 0x7FFFFFFF

    @property
    def times(self) -> np.ndarray:
        """How often each occurs, uint32 [U]."""
        return np.bincount(self.inverse, minlength=len(self.keys)).astype(np.uint32)

    def summed(self, grads_KD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the sum of each key's gradients is.

        Parameters
        ----------
        grads_KD : float32, contiguous.

        Returns
        -------
        For each of the U keys a row of `grads_KD`, or K and a row of the second array, float32 [keys that repeat, D].

        Raises
        ------
        InputError : a gradient or a sum is not finite, or beyond 2⁵⁷.
        """
        num, dim = grads_KD.shape
        found_U, sums = np.empty(len(self.keys), np.uint32), np.empty((self.repeated, dim), np.float32)
        flat, flat_sums = grads_KD.reshape(-1), sums.reshape(-1)
        bad = int(kernel.summed(
            flat, flat.view(np.uint32), np.uint64(dim), self.inverse, self.where, flat_sums, flat_sums.view(np.uint32), found_U
        ))  # fmt: skip
        if bad >= 0:
            which = f"key {self.keys[self.inverse[bad]]}" if bad < num else "the sum of those of a key"
            raise InputError("a gradient is not a number to learn from", why=f"{which}: NaN, infinite or beyond 2^57")
        return found_U, sums

    def totals(self, grads_KD: np.ndarray) -> np.ndarray:
        """Sums of the gradients of each different key, float32 [U, D]; raises what `summed` raises."""
        found_U, sums = self.summed(grads_KD)
        if not self.repeated:
            return grads_KD
        totals: np.ndarray = grads_KD[self.first]
        again = found_U >= len(grads_KD)
        totals[again] = sums[found_U[again] - len(grads_KD)]
        return totals


def batch_of(keys_K: np.ndarray, salt: np.uint64) -> Batch:
    """Different keys of a batch, int64.

    Raises
    ------
    InputError : they are not a list of int64.
    """
    if keys_K.ndim != 1 or keys_K.dtype != np.int64:
        raise InputError("keys are not a list of 64-bit integers", why=f"{keys_K.dtype} of shape {list(keys_K.shape)}")
    num = len(keys_K)
    seen = np.zeros(2 << max(4, (num - 1).bit_length()), np.uint32)
    keys_U, hashes_U = np.empty(num, np.int64), np.empty(num, np.uint64)
    where_U, inverse_K = np.empty(num, np.uint32), np.empty(num, np.uint32)
    count, repeated = kernel.unique(np.ascontiguousarray(keys_K), salt, seen, keys_U, hashes_U, where_U, inverse_K)
    return Batch(keys_U[:count], hashes_U[:count], where_U[:count], inverse_K, int(repeated))
