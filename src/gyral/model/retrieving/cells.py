"""Centres of cells, and which cell each vector lies in, without comparing every vector with every centre.

Centres are grouped, √C groups of them, and a vector is compared with the `SHARE` of all centres that are nearest to the group
it is in. Now and then another centre would have been a little nearer, which costs a search nothing: where a vector lies is
written down (`Ivf.ranks`), and the tuning counts by it. At 1,000,000 × 64 with 4,096 cells: 5.6 CPU-s instead of 15 for the
whole build at the same probes and recall, 3.1 instead of 8.2 of them for k-means. A quarter of the centres instead of an
eighth, or twice the groups, cost 1 to 4 s more and gain nothing that can be measured.

Shapes: N vectors of length one, C centres, G groups, D numbers of a vector.

**Source**: spherical k-means, Dhillon and Modha 2001; two levels as in Nistér and Stewénius 2006, section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FEW = 256
"""Up to so many centres all are compared with."""
SHARE = 8
"""Of more, one in so many."""
GROUPING_ROUNDS = 6


def centres(faiss: Any, vectors_ND: np.ndarray, count: int, rounds: int, seed: int) -> np.ndarray:
    """Centres of length one by k-means, float32 [C, D]; a cell that nobody lies in gets a vector drawn anew."""
    random = np.random.default_rng(seed)
    found_CD = vectors_ND[random.choice(len(vectors_ND), count, replace=False)].copy()
    for _ in range(rounds):
        cell_N = nearest(faiss, vectors_ND, found_CD, seed)
        order = np.argsort(cell_N, kind="stable")
        there, first = np.unique(cell_N[order], return_index=True)
        found_CD = vectors_ND[random.choice(len(vectors_ND), count, replace=False)]
        found_CD[there] = np.add.reduceat(vectors_ND[order], first, axis=0)
        found_CD /= np.maximum(np.linalg.norm(found_CD, axis=1, keepdims=True), 1e-20)
    return np.ascontiguousarray(found_CD)


def nearest(faiss: Any, vectors_ND: np.ndarray, centres_CD: np.ndarray, seed: int) -> np.ndarray:
    """The cell that each vector lies in, int64 [N]: of the nearest centre among those that are compared."""
    count, width = centres_CD.shape
    if count <= FEW:
        return _best(faiss, vectors_ND, centres_CD)
    grouping = faiss.Kmeans(
        width, round(count**0.5), niter=GROUPING_ROUNDS, spherical=True, seed=seed + 1, min_points_per_centroid=1,
        max_points_per_centroid=count,
    )  # fmt: skip
    grouping.train(centres_CD)
    compared_GC = faiss.knn(grouping.centroids, centres_CD, max(FEW, count // SHARE), faiss.METRIC_INNER_PRODUCT)[1]
    group_N = _best(faiss, vectors_ND, grouping.centroids)
    order = np.argsort(group_N, kind="stable")
    ends = np.searchsorted(group_N[order], np.arange(len(compared_GC) + 1))
    cell_N = np.empty(len(vectors_ND), np.int64)
    for group, compared in enumerate(compared_GC):
        mine = order[ends[group] : ends[group + 1]]
        if len(mine):
            cell_N[mine] = compared[_best(faiss, vectors_ND[mine], np.ascontiguousarray(centres_CD[compared]))]
    return cell_N


def _best(faiss: Any, vectors_ND: np.ndarray, centres_CD: np.ndarray) -> np.ndarray:
    return np.asarray(faiss.knn(vectors_ND, centres_CD, 1, faiss.METRIC_INNER_PRODUCT)[1][:, 0])
