"""Vectors of objects by who met them: the first right singular vectors of subjects × objects, from histories alone.

What learns no vectors of its own (the closed form) has these, to be diverse and to find similar objects by. Popular objects
are near everything that many people meet, so each subject's row is divided by the root of its length. Three rounds from a
random start.

Source: Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4.

Shapes: S subjects, V objects, D numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

WIDTH, ROUNDS, MORE = 32, 3, 8


@njit(cache=True, nogil=True)
def _gathered(indptr: np.ndarray, items: np.ndarray, by_VD: np.ndarray, out_VD: np.ndarray) -> None:
    """out += Xᵀ X by, where X has a row a subject, of equal numbers whose squares sum to one."""
    width = by_VD.shape[1]
    row_D = np.empty(width)
    for subject in range(len(indptr) - 1):
        first, last = indptr[subject], indptr[subject + 1]
        if first == last:
            continue
        row_D[:] = 0
        for at in range(first, last):
            for d in range(width):
                row_D[d] += by_VD[items[at], d]
        share = 1.0 / (last - first)
        for at in range(first, last):
            for d in range(width):
                out_VD[items[at], d] += share * row_D[d]


def co_met_vectors(indptr: np.ndarray, items: np.ndarray, num_objects: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Vectors of length one, float32 [V, D]; zeros for what nobody met.

    Parameters
    ----------
    indptr, items : histories, one CSR row a subject, each object once in it.
    """
    width = max(min(width, num_objects), 1)
    wider = min(width + MORE, max(num_objects, 1))
    basis_VD = np.random.default_rng(seed).normal(size=(num_objects, wider))
    for _ in range(ROUNDS):
        made_VD = np.zeros_like(basis_VD)
        _gathered(indptr, items, basis_VD, made_VD)
        basis_VD = np.linalg.qr(made_VD)[0]
    made_VD = np.zeros_like(basis_VD)
    _gathered(indptr, items, basis_VD, made_VD)
    values, turned = np.linalg.eigh(basis_VD.T @ made_VD)
    values, turned = values[-width:], turned[:, -width:]
    vectors_VD = basis_VD @ turned * np.sqrt(np.maximum(values, 0))  # X V: cosines of columns of X
    length_V1 = np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    return np.where(length_V1 > 1e-9, vectors_VD / np.maximum(length_V1, 1e-9), 0).astype(np.float32)
