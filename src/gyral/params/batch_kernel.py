"""A batch of keys that repeat: each once, in order of first occurrence, and the sum of its gradients.

A Zipf batch of 65,536 ids has about 11,000 different ones, so everything after this handles a sixth of the keys. Sums are
float32, in order of occurrence. A key that occurs once (nearly all, where ids are uniform) is not copied: `where` says in which
array its gradient stands. Gradients that are not numbers, or so large that their squares could overflow, are found here, before
anything of a table has changed.
"""

from __future__ import annotations

import numpy as np

from gyral.params.hashing_kernel import hashed
from gyral.params.kernel import kernel, part

U = np.uint64
LARGEST = 2.0**57
"""Gradients from here on are refused: the sum of 4,096 of their squares is not a float32."""
_0, _1, _20 = U(0), U(1), U(20)
_MANY, _PLACE = U(1 << 31), U((1 << 31) - 1)
_LIMIT, _MAGNITUDE = np.uint32((57 + 127) << 23), np.uint32(0x7FFFFFFF)


@kernel
def unique(
    keys_K: np.ndarray,
    salt: np.uint64,
    seen: np.ndarray,
    keys_U: np.ndarray,
    hashes_U: np.ndarray,
    where_U: np.ndarray,
    inverse_K: np.ndarray,
) -> tuple[int, int]:
    """Different keys and where each came from.

    Parameters
    ----------
    seen : uint32 zeros, a power of two of at least 2 K.
    keys_U, hashes_U : written, as many as there are different keys.
    where_U : uint32, place of the first occurrence; its top bit is set where there are more.
    inverse_K : uint32, which of the different keys each one is.

    Returns
    -------
    Different keys, and how many of them occur more than once.
    """
    mask, num, many = U(len(seen)) - _1, _0, _0
    for at in range(U(len(keys_K))):
        key = keys_K[at]
        hash_ = hashed(key, salt)
        place = (hash_ >> _20) & mask
        while True:
            other = U(seen[place])
            if other == _0:
                keys_U[num] = key
                hashes_U[num] = hash_
                where_U[num] = at
                inverse_K[at] = num
                num += _1
                seen[place] = num
                break
            if keys_U[other - _1] == key:
                inverse_K[at] = other - _1
                if U(where_U[other - _1]) & _MANY == _0:
                    where_U[other - _1] |= _MANY
                    many += _1
                break
            place = (place + _1) & mask
    return int(num), int(many)


@part
def _largest(bits: np.ndarray, start: np.uint64, dim: np.uint64) -> np.uint32:
    """Bits of the largest magnitude of a row."""
    largest = np.uint32(0)
    for at in range(dim):
        largest = max(largest, bits[start + at] & _MAGNITUDE)
    return largest


@kernel
def summed(
    grads: np.ndarray,
    bits: np.ndarray,
    dim: np.uint64,
    inverse_K: np.ndarray,
    where_U: np.ndarray,
    sums: np.ndarray,
    sum_bits: np.ndarray,
    found_U: np.ndarray,
) -> np.int64:
    """Sums of the gradients of keys that occur more than once.

    Parameters
    ----------
    grads, bits : float32 [K · dim], and its memory as uint32.
    sums, sum_bits : written, one row for each key that occurs more than once.
    found_U : uint32, written: the row of `grads` where a key's gradient is, or K and the row of `sums`.

    Returns
    -------
    Place of a gradient that is refused, K for a sum; −1: all are finite.
    """
    num, rows = U(len(inverse_K)), _0
    for at in range(num):
        unique_at, start = U(inverse_K[at]), at * dim
        where = U(where_U[unique_at])
        if _largest(bits, start, dim) >= _LIMIT:
            return np.int64(at)
        if where & _MANY == _0:
            found_U[unique_at] = where
        elif where & _PLACE == at:
            for column in range(dim):
                sums[rows * dim + column] = grads[start + column]
            found_U[unique_at] = num + rows
            rows += _1
        else:
            into = (U(found_U[unique_at]) - num) * dim
            for column in range(dim):
                sums[into + column] += grads[start + column]
    for row in range(rows):
        if _largest(sum_bits, row * dim, dim) >= _LIMIT:
            return np.int64(num)
    return np.int64(-1)
