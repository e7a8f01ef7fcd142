"""API keys and rates, shared by the servers: keys are stored as hashes, rates are token buckets.

A key is 256 random bits, so a plain SHA-256 of it tells nothing and costs nothing (1 µs). It is looked up by its hash, in a
dict whose own hash is seeded for each process, and compared in constant time; how long a look-up takes says nothing about a
key, because nobody can choose the hash of a key that he does not have.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


def new_key() -> tuple[str, str]:
    """A fresh key and the hash to configure."""
    secret = secrets.token_urlsafe(32)
    return secret, hashlib.sha256(secret.encode()).hexdigest()


class Ring(Generic[T]):
    """What belongs to each key, by the hash of the key."""

    def __init__(self, by_hash: Mapping[str, T]) -> None:
        self._by_hash = {digest.lower(): (digest.lower(), each) for digest, each in by_hash.items()}

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, authorization: bytes) -> T | None:
        """Who sends `authorization: Bearer KEY`; None when nobody known does."""
        scheme, _, secret = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        digest = hashlib.sha256(secret.strip()).hexdigest()
        known = self._by_hash.get(digest)
        return known[1] if known is not None and hmac.compare_digest(known[0], digest) else None


class Bucket:
    """A token bucket: `rate` a second, and what was saved up, `burst` at most.

    What is asked for may overdraw it once, so that a request larger than the burst is possible; the next ones wait for it.
    Clocks that go back give nothing.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._left, self._at = rate, max(burst, 1.0), max(burst, 1.0), now

    def wait_s(self, now: float) -> float:
        """Seconds until something may be spent again; 0: now."""
        if now > self._at:
            self._left = min(self._burst, self._left + self._rate * min(now - self._at, 1e9))
            self._at = now
        return 0.0 if self._left > 0 else (1e-6 - self._left) / self._rate

    def spend(self, amount: float) -> None:
        """Take; what was taken too much comes back by a negative amount."""
        if math.isfinite(amount):
            self._left = min(self._burst, self._left - amount)
