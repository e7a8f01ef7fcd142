"""How well vectors find each other: recall, and naming pictures in many languages. Exact search, vectors of length one.

Shapes: Q queries, N things searched, E width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ROWS = 1024
"""Queries compared at once."""


def first_of(query_QE: np.ndarray, found_NE: np.ndarray) -> np.ndarray:
    """The nearest thing of each query, int64 [Q]; of equals the first."""
    parts = [np.argmax(query_QE[at : at + ROWS] @ found_NE.T, axis=1) for at in range(0, len(query_QE), ROWS)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def recall(query_QE: np.ndarray, concept_Q: np.ndarray, found_NE: np.ndarray, concept_N: np.ndarray, k: int = 1) -> float:
    """Share of queries with a thing of their concept among the k nearest."""
    if not len(query_QE) or not len(found_NE):
        return 0.0
    if k == 1:
        return float(np.mean(concept_N[first_of(query_QE, found_NE)] == concept_Q))
    hits, k = 0, min(k, len(found_NE))
    for at in range(0, len(query_QE), ROWS):
        nearest = np.argpartition(-(query_QE[at : at + ROWS] @ found_NE.T), k - 1, axis=1)[:, :k]
        hits += int((concept_N[nearest] == concept_Q[at : at + ROWS, None]).any(axis=1).sum())
    return hits / len(query_QE)


def naming(
    pictures_QE: np.ndarray,
    concept_Q: np.ndarray,
    captions_ME: np.ndarray,
    concept_M: np.ndarray,
    languages: Sequence[str],
    least: float = 0.5,
) -> dict[str, tuple[float, float]]:
    """Of each language how many pictures get their name as the nearest of all names in it, and what chance gives.

    Parameters
    ----------
    least : languages that name fewer than this share of the concepts are left out.
    """
    told = np.array(languages)
    found: dict[str, tuple[float, float]] = {}
    for language in sorted(set(languages)):
        mine = np.flatnonzero(told == language)
        named = np.unique(concept_M[mine])
        if len(named) < max(2.0, least * len(np.unique(concept_Q))):
            continue
        asked = np.flatnonzero(np.isin(concept_Q, named))
        accuracy = recall(pictures_QE[asked], concept_Q[asked], captions_ME[mine], concept_M[mine])
        chance = float(np.mean([np.mean(concept_M[mine] == concept) for concept in concept_Q[asked]]))
        found[language] = (accuracy, chance)
    return found
