"""What a picture is called: the nearest of some names, each one's share, and how sure that is.

How sure: the share of the first name less that of the second. Of the ways that softmax has to say it this one was taken because
a picture between two names has none of it, however few the others get.

Shapes: N pictures, M names, E width.

Source: the margin of Scheffer et al. 2001, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROWS = 1024
"""Pictures that are named at once."""


class Judged(NamedTuple):
    """Of pictures whose names are known: how sure the first name is, float64 [N], and whether it is right, bool [N].

    `path`, `given`: the requests that are answered so, as `model.cascade.Cascade` has them.
    """

    confidence: np.ndarray
    is_right: np.ndarray
    path: str
    given: dict[str, str]


def shares_of(scores: np.ndarray, scale: float) -> np.ndarray:
    """Share of each name, the last axis."""
    shares = np.exp(scale * (scores - scores.max(axis=-1, keepdims=True)))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def margin(shares: np.ndarray) -> np.ndarray:
    """How sure the first name is, in [0, 1]; 1 where there is no other."""
    if shares.shape[-1] < 2:
        return np.ones(shares.shape[:-1])
    two = np.partition(shares, -2, axis=-1)[..., -2:].astype(np.float64)
    return np.asarray(two[..., 1] - two[..., 0])


def judged(
    pictures_NE: np.ndarray, names_ME: np.ndarray, scale: float, names: Sequence[str], truth: Sequence[set[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """How sure each picture's first name is, and whether it is one of its names."""
    sure, right = [], []
    for at in range(0, len(pictures_NE), ROWS):
        scores = pictures_NE[at : at + ROWS] @ names_ME.T
        sure.append(margin(shares_of(scores, scale)))
        right += [names[best] in truth[at + row] for row, best in enumerate(scores.argmax(axis=1).tolist())]
    return np.concatenate(sure) if sure else np.zeros(0), np.array(right, bool)
