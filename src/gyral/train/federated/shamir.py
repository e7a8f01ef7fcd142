"""Secrets in shares: any `threshold` of them give the secret, fewer say nothing about it.

Points of a random polynomial over the integers modulo 2^521 − 1, whose value at 0 is the secret.

Source: Shamir, How to share a secret, CACM 1979.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from gyral.errors import InputError

PRIME = (1 << 521) - 1
SHARE_BYTES = 66
"""Of one share as it is sent, without its place."""


def split(secret: int, threshold: int, places: Sequence[int]) -> dict[int, int]:
    """Share of each place (≥ 1, each once)."""
    factors = [secret % PRIME, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    found = {}
    for place in places:
        value = 0
        for factor in reversed(factors):
            value = (value * place + factor) % PRIME
        found[place] = value
    return found


def weights_of(places: Sequence[int]) -> dict[int, int]:
    """What the shares of these places are multiplied with; their sum is the secret (Lagrange at 0)."""
    found = {}
    for place in places:
        above, below = 1, 1
        for other in places:
            if other != place:
                above, below = above * other % PRIME, below * (other - place) % PRIME
        found[place] = above * pow(below, -1, PRIME) % PRIME
    return found


def joined(shares: Mapping[int, int], threshold: int, weights: Mapping[int, int] | None = None) -> int:
    """The secret.

    Parameters
    ----------
    weights : of the first `threshold` places in order, where many secrets are joined from the same.

    Raises
    ------
    InputError : there are fewer shares than it takes.
    """
    if len(shares) < threshold:
        raise InputError(f"{len(shares)} shares do not give a secret that takes {threshold}")
    places = sorted(shares)[:threshold]
    weights = weights or weights_of(places)
    return sum(shares[place] * weights[place] for place in places) % PRIME
