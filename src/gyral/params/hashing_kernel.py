"""Keys to buckets, and the first values of a key: pure functions of (salt, key), the same on every machine.

The hash is a bijection of 64 bits, so two keys never have the same one, and it is salted, so nobody who chooses keys chooses
where they fall. Its top `BUCKET_BITS` are the bucket; the bits below are free for whoever looks inside one.

Source: the finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014; constants of Stafford's variant 13).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.params.spec import BUCKET_BITS

U = np.uint64
GOLDEN = U(0x9E3779B97F4A7C15)
_A, _B = U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)
_27, _30, _31 = U(27), U(30), U(31)
_SHIFT = U(64 - BUCKET_BITS)
_FIRST = U(0xD1B54A32D192ED03)
_16, _32, _40, _48, _LOW = U(16), U(32), U(40), U(48), U(0xFFFF)
UNIFORM, NORMAL, ZERO, PUSHED = 0, 1, 2, 3
INITS = {"uniform": UNIFORM, "normal": NORMAL, "zero": ZERO, "pushed": PUSHED}
_UNIT = np.float32(2.0**-23)
_ONE = np.float32(1)
_DEVIATION = np.float32(1 / np.sqrt((65536.0**2 - 1) / 3))
"""One over the deviation of the sum of four uniform numbers of 16 bits."""


@njit(inline="always", cache=True)
def mixed(z: np.uint64) -> np.uint64:
    """A bijection of 64 bits in which every bit depends on every other."""
    z = (z ^ (z >> _30)) * _A
    z = (z ^ (z >> _27)) * _B
    return z ^ (z >> _31)


@njit(inline="always", cache=True)
def hashed(key: np.int64, salt: np.uint64) -> np.uint64:
    """Of a key in a table."""
    return mixed(U(key) * GOLDEN ^ salt)


@njit(inline="always", cache=True)
def bucket_of(hash_: np.uint64) -> np.uint64:
    """Which part of the table a hash is in."""
    return hash_ >> _SHIFT


@njit(nogil=True, cache=True)
def buckets_of(keys_K: np.ndarray, salt: np.uint64, out_K: np.ndarray) -> None:
    """Bucket of every key, into an array of uint16."""
    for at in range(U(len(keys_K))):
        out_K[at] = bucket_of(hashed(keys_K[at], salt))


@njit(inline="always", cache=True)
def drawn(hash_: np.uint64, number: np.uint64) -> np.uint64:
    """The `number`-th 64 random bits of a key."""
    return mixed((hash_ ^ _FIRST) + (number + U(1)) * GOLDEN)


@njit(inline="always", cache=True)
def first_value(hash_: np.uint64, place: np.uint64, init: int, scale: np.float32) -> np.float32:
    """Weight `place` of a key that nobody has learned."""
    if init >= ZERO:
        return np.float32(0)
    bits = drawn(hash_, place)
    if init == UNIFORM:
        return (np.float32(bits >> _40) * _UNIT - _ONE) * scale
    total = (bits & _LOW) + ((bits >> _16) & _LOW) + ((bits >> _32) & _LOW) + (bits >> _48)
    return np.float32(np.int64(total) - 131070) * _DEVIATION * scale


@njit(nogil=True, cache=True)
def first_values(keys_K: np.ndarray, salt: np.uint64, init: int, scale: np.float32, out_KD: np.ndarray) -> None:
    """First values of keys, float32 [K, D]."""
    for at in range(U(len(keys_K))):
        hash_ = hashed(keys_K[at], salt)
        for place in range(U(out_KD.shape[1])):
            out_KD[at, place] = first_value(hash_, U(place), init, scale)
