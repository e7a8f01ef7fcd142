"""What means the same: pairs of documents whose embeddings, by a model of the user's, point nearly the same way.

All pairs of n documents cost n² dot products. Here k-means cuts the vectors into about √n clusters; a document is compared with
those of its own cluster and with those whose cluster is one of its `probes` nearest, so n^1.5. A pair is missed only if neither
of the two has the other's cluster among its nearest; the cosine of what is found is exact. How much that is on real text, at
the default settings, is in `benchmarks/curate/semantic.py`.

Bounds: vectors are float32, 4 d bytes a document, and may be a memory map; a block of products takes 16 MB; of a document the
64 best of those that are near to it and better than it are kept, so a cluster of a thousand alike makes no million pairs; equal
vectors are one. Who of a pair stays is the same greedy star as for near-duplicates: the best stays, what is near to it goes.

Source: Abbas et al. 2023, "SemDeDup", section 3 (k-means, then cosines within a cluster; here nearest clusters too); Sculley
2010 (k-means by batches); Dhillon and Modha 2001 (on the sphere).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gyral.errors import InputError

Embed = Callable[[list[str]], np.ndarray]
Star = Callable[[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]
"""(number of nodes, a, b, similarity, priority order, is alive, threshold) → twin, -1 where it stays, and its similarity."""
EMBED_TEXTS = 256
BLOCK = 2_048
MOST = 64
"""Pairs kept of a document with better ones."""


class Pairs(NamedTuple):
    """Documents that mean the same: `a` is the better one, int64, and their cosine, float32; sorted by b, then best a first."""

    a: np.ndarray
    b: np.ndarray
    cosine: np.ndarray


def embed(function: Embed, batches: Iterable[pa.Array]) -> Iterator[np.ndarray]:
    """Vectors of length 1 of all texts, float32 [≤ 256, d] at a time; that of an empty text is 0, which is near to nothing.

    Raises
    ------
    InputError : the function gives no such array, or numbers that are not finite.
    """
    width = 0
    for batch in batches:
        for begin in range(0, len(batch), EMBED_TEXTS):
            texts = [text or "" for text in batch.slice(begin, EMBED_TEXTS).to_pylist()]
            vectors = np.array(function(texts), np.float32)
            width = width or (vectors.shape[1] if vectors.ndim == 2 else 0)
            if vectors.shape != (len(texts), width) or not width:
                why = f"of {len(texts)} texts it made an array of shape {vectors.shape}"
                raise InputError(
                    "the embedding function must give one vector a text, all of one length",
                    why=why,
                    hint="return an array of shape [texts, width]",
                )
            if not np.isfinite(vectors).all():
                raise InputError(
                    "the embedding function gave numbers that are not finite", hint="a text that it cannot embed may have zeros"
                )
            vectors[[not text for text in texts]] = 0.0
            yield vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def centroids(vectors: np.ndarray, clusters: int, seed: int, steps: int = 60, batch: int = 4_096) -> np.ndarray:
    """Centroids by k-means over batches, on the sphere, float32 [clusters, d]; the same for the same seed.

    Parameters
    ----------
    vectors : of length 1, [n, d].
    """
    random = np.random.default_rng(seed)
    clusters = min(clusters, len(vectors))
    found = np.array(vectors[np.sort(random.choice(len(vectors), clusters, replace=False))], np.float32)
    times = np.ones(clusters)
    for _ in range(steps):
        some = np.asarray(vectors[np.sort(random.integers(0, len(vectors), min(batch, len(vectors))))])
        nearest = np.concatenate([np.argmax(part @ found.T, axis=1) for part in _blocks(some)])
        order = np.argsort(nearest, kind="stable")
        hit, first, count = np.unique(nearest[order], return_index=True, return_counts=True)
        times[hit] += count
        rate = (count / times[hit])[:, None]
        mean = np.add.reduceat(some[order], first, axis=0) / count[:, None]
        moved = (1 - rate) * found[hit] + rate * mean
        found[hit] = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    return found


def nearest_clusters(vectors: np.ndarray, centers: np.ndarray, probes: int) -> np.ndarray:
    """The nearest clusters of each vector, the nearest first, int32 [n, probes]."""
    probes = min(probes, len(centers))
    found = np.empty((len(vectors), probes), np.int32)
    at = 0
    for part in _blocks(vectors):
        near = part @ centers.T
        best = np.argpartition(-near, probes - 1, axis=1)[:, :probes]
        order = np.argsort(-np.take_along_axis(near, best, axis=1), axis=1, kind="stable")
        found[at : at + len(part)] = np.take_along_axis(best, order, axis=1)
        at += len(part)
    return found


def find_pairs(
    vectors: np.ndarray, priority_order: np.ndarray, threshold: float, clusters: int = 0, probes: int = 3, seed: int = 0
) -> Pairs:
    """Pairs with a cosine of the threshold or more.

    Parameters
    ----------
    vectors : float32 [n, d], of length 1 or 0.
    priority_order : documents, the best first, int64 [n].
    clusters : 0: the root of n.
    probes : nearest clusters in which a document is compared; as many as clusters: all pairs.
    """
    number = len(vectors)
    if not number:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    rank = np.empty(number, np.int64)
    rank[priority_order] = np.arange(number)
    centers = centroids(vectors, clusters or max(1, int(number**0.5)), seed)
    near = nearest_clusters(vectors, centers, probes)
    # Members of each cluster, those at home first, each part by rank.
    flat, documents = near.ravel(), np.repeat(np.arange(number), near.shape[1])
    away = np.tile(np.arange(near.shape[1]) > 0, number)
    order = np.lexsort((rank[documents], away, flat))
    bounds = np.searchsorted(flat[order], np.arange(len(centers) + 1))
    homes = np.bincount(near[:, 0], minlength=len(centers))
    found = [
        pair
        for cluster, home in enumerate(homes.tolist())
        for pair in _in_cluster(vectors, documents[order[bounds[cluster] : bounds[cluster + 1]]], home, rank, threshold)
    ]
    return _best(found, rank)


def duplicates(
    vectors: np.ndarray,
    priority_order: np.ndarray,
    is_alive: np.ndarray,
    threshold: float,
    star: Star,
    *,
    clusters: int = 0,
    probes: int = 3,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Which documents go because another one that stays means the same.

    Parameters
    ----------
    is_alive : bool [n]; a document that is dropped for another reason is nobody's twin.
    star : decides by the pairs who stays.

    Returns
    -------
    twin, cosine : int64 [n], the document that stays instead, -1: it stays itself; float32 [n], 0 where there is none.
    """
    number = len(vectors)
    twin, cosine = np.full(number, -1, np.int64), np.zeros(number, np.float32)
    keys = _keys(vectors)
    order = priority_order[is_alive[priority_order] & (keys[priority_order] != 0)]
    if not len(order):
        return twin, cosine
    # Of equal vectors the best stands for all.
    _, first, group = np.unique(keys[order], return_index=True, return_inverse=True)
    best = order[first]
    by_priority = np.argsort(first, kind="stable")
    pairs = find_pairs(vectors[best], by_priority, threshold, clusters, probes, seed)
    alive = np.ones(len(best), bool)
    found, near = star(len(best), pairs.a, pairs.b, pairs.cosine, by_priority, alive, threshold)
    goes_for = np.where(found >= 0, best[found], best)[group]
    is_best = order == best[group]
    goes = (found[group] >= 0) | ~is_best
    twin[order[goes]] = goes_for[goes]
    cosine[order[goes]] = np.where(found >= 0, near, np.float32(1.0))[group][goes]
    return twin, cosine


def _in_cluster(
    vectors: np.ndarray, members: np.ndarray, home: int, rank: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs (better, worse, cosine) of those at home with each other and with those whose cluster is near."""
    for begin in range(0, home, BLOCK):
        rows = members[begin : min(begin + BLOCK, home)]
        left = np.asarray(vectors[rows])
        for start in range(begin, len(members), BLOCK):
            columns = members[start : start + BLOCK]
            near = left @ np.asarray(vectors[columns]).T
            row, column = np.nonzero(near >= threshold)
            one, other, cosine = rows[row], columns[column], near[row, column]
            if start == begin:  # the block on the diagonal has each pair twice, and each document with itself
                keep = (rank[one] < rank[other]) | (start + column >= home)
                one, other, cosine = one[keep], other[keep], cosine[keep]
            swap = rank[one] > rank[other]
            better, worse = np.where(swap, other, one), np.where(swap, one, other)
            yield _first(better, worse, cosine, rank)


def _first(
    better: np.ndarray, worse: np.ndarray, cosine: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each worse document the pairs with the best others, no pair twice."""
    order = np.lexsort((rank[better], worse))
    better, worse, cosine = better[order], worse[order], cosine[order]
    is_new = np.append(True, (np.diff(worse) != 0) | (np.diff(better) != 0))[: len(worse)]
    better, worse, cosine = better[is_new], worse[is_new], cosine[is_new]
    begins = np.flatnonzero(np.diff(worse, prepend=-1))
    place = np.arange(len(worse)) - np.repeat(begins, np.diff(np.append(begins, len(worse))))
    keep = place < MOST
    return better[keep], worse[keep], cosine[keep]


def _best(found: list[tuple[np.ndarray, np.ndarray, np.ndarray]], rank: np.ndarray) -> Pairs:
    better, worse, cosine = (np.concatenate([each[part] for each in found]) for part in range(3))
    return Pairs(*_first(better, worse, cosine.astype(np.float32), rank))


def _keys(vectors: np.ndarray) -> np.ndarray:
    """A uint64 for each vector, equal for equal ones, 0 for 0. Two others of n have one key with a chance of n² / 2^65.

    Source: multilinear hashing of the bits (Carter and Wegman 1979), with fixed keys.
    """
    by = np.random.default_rng(0).integers(1, 1 << 63, vectors.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    parts = [((part + np.float32(0)).view(np.uint32).astype(np.uint64) * by).sum(axis=1) for part in _blocks(vectors)]
    return np.concatenate([*parts, np.zeros(0, np.uint64)])


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for begin in range(0, len(vectors), BLOCK):
        yield np.asarray(vectors[begin : begin + BLOCK])
