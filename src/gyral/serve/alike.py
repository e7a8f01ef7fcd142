"""Answers to questions that are alike: the nearest question that was answered, if it is near enough. Off unless asked for.

An embedding of what is asked is compared with those of the last `max_entries` questions of the same model version by cosine,
all of them: a threshold is the only thing that stands between a question and the answer to another one, so an approximate
search would save nothing worth having. Questions have a key, of everything else that an answer depends on and of who asks;
only those of one key are told each other's answers. How often a threshold tells a wrong answer depends on the embedder and on
what is asked: `calibrated` takes it from pairs that are known to be the same or not, for an error that is allowed, and refuses
to where the pairs do not show it (`gyral bench alike`).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from gyral.errors import InputError

LEAST_PAIRS = 50


class Found(NamedTuple):
    """An answer to a question like the one that was asked, and how like."""

    answer: bytes
    cosine: float


class Alike:
    """Of one model version; the oldest question goes first.

    Parameters
    ----------
    threshold : least cosine.
    """

    def __init__(self, dim: int, threshold: float, max_entries: int = 4_096) -> None:
        if not 0 < threshold <= 1:
            raise InputError(f"{threshold} is not a cosine above 0", hint="`calibrated` takes one from pairs of questions")
        self._threshold = threshold
        self._vectors_ND = np.zeros((max_entries, dim), np.float32)
        self._lanes_N = np.zeros(max_entries, np.int64)
        self._answers: list[tuple[bytes, bytes]] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, vector_D: np.ndarray, key: bytes = b"") -> Found | None:
        """What was answered to the question of this key that is nearest to this one, if that is near enough."""
        num = len(self._answers)
        is_of_key_N = self._lanes_N[:num] == _lane(key)
        if not is_of_key_N.any():
            return None
        cosine_N = np.where(is_of_key_N, self._vectors_ND[:num] @ unit(vector_D), -2)
        best = int(cosine_N.argmax())
        near = float(cosine_N[best])
        kept, answer = self._answers[best]
        return Found(answer, near) if near >= self._threshold and kept == key else None

    def put(self, vector_D: np.ndarray, answer: bytes, key: bytes = b"") -> None:
        """Keep an answer."""
        self._vectors_ND[self._next] = unit(vector_D)
        self._lanes_N[self._next] = _lane(key)
        if self._next == len(self._answers):
            self._answers.append((key, answer))
        else:
            self._answers[self._next] = (key, answer)
        self._next = (self._next + 1) % len(self._vectors_ND)


def _lane(key: bytes) -> int:
    """A key as a number, to compare all at once; the key itself is compared where it counts."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little", signed=True)


def unit(vector_D: np.ndarray) -> np.ndarray:
    """A vector of length one, float32.

    Raises
    ------
    InputError : it is not finite, or has no direction.
    """
    length = float(np.linalg.norm(vector_D.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        raise InputError("an embedding is not a direction", why=f"its length is {length}")
    return np.asarray(vector_D / length, np.float32)


def calibrated(cosine_P: np.ndarray, is_same_P: np.ndarray, max_error: float = 0.01) -> float:
    """The lowest threshold at which at most `max_error` of the pairs above it are not the same question.

    The share is bounded from above by Wilson's interval at 95 %, so few pairs allow little.

    Raises
    ------
    InputError : there are too few pairs, or no threshold holds it.

    Source: Wilson, JASA 22 (1927).
    """
    if len(cosine_P) < LEAST_PAIRS:
        raise InputError(f"{len(cosine_P)} pairs show no threshold", hint=f"at least {LEAST_PAIRS}")
    order = np.argsort(-cosine_P, kind="stable")
    cosine_P, wrong_P = cosine_P[order], np.cumsum(~is_same_P[order].astype(bool))
    num_P = np.arange(1, len(order) + 1)
    z, share_P = 1.96, wrong_P / num_P
    middle_P = share_P + z * z / (2 * num_P)
    spread_P = z * np.sqrt(share_P * (1 - share_P) / num_P + z * z / (4 * num_P**2))
    above_P = (middle_P + spread_P) / (1 + z * z / num_P)
    is_end_P = np.append(cosine_P[1:] < cosine_P[:-1], True)  # pairs of one cosine stand or fall together
    fits = np.flatnonzero((above_P <= max_error) & is_end_P)
    if not len(fits):
        why, hint = f"the least bound is {above_P.min():.1%}", "more pairs, another embedder, or a larger error"
        raise InputError(f"no threshold keeps wrong answers below {max_error:.1%}", why=why, hint=hint)
    return float(cosine_P[fits[-1]])
