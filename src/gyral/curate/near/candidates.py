"""Which pairs are worth verifying: those that share a bucket, the nodes of one band key.

Keys are partitioned by their upper bits, so a partition holds whole buckets and is sorted on its own; pairs are partitioned by
their smaller node and come out ascending, each once. One partition is in memory at a time.

A bucket of more than `bucket` nodes would cost a square. There a node meets the `bucket` / 4 longest texts and the `bucket` / 4
next to it by length, ties by digest. The longest, because a decision that prefers long texts then has its kept document among
them; and by content only, so a bucket of the same texts gives the same pairs in whatever order they came. At the cap a node
meets about as many as just below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gyral.curate.near.spill import Column, Spill
from gyral.errors import InputError

PARTITIONS = 64
RUN_RECORDS = 4 << 20
"""Keys that are collected before they are partitioned; what is held then is 100 MB."""


class Nodes(NamedTuple):
    """A batch of distinct texts, numbered on from the batches before.

    Attributes
    ----------
    digests : uint64 [n, 2].
    bands : uint64 [n, B], keys of the bands.
    num_shingles : int32 [n]; a text without any is near to nothing.
    size_bytes : int64 [n].
    """

    digests: np.ndarray
    bands: np.ndarray
    num_shingles: np.ndarray
    size_bytes: np.ndarray


class Index:
    """Band keys, digests and sizes of all nodes, in partitions."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self.num_nodes = 0
        self.digests = Column(folder / "digests", np.uint64, 2, memory_bytes // 4)
        self.sizes = Column(folder / "sizes", np.int64, 0, memory_bytes // 4)
        self._keys = Spill(folder, "keys", (np.uint64, np.uint32), memory_bytes)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_waiting = 0

    def add(self, nodes: Nodes) -> None:
        """Number a batch on and take its keys."""
        rows = np.arange(self.num_nodes, self.num_nodes + len(nodes.digests), dtype=np.int64)
        self.num_nodes += len(rows)
        if self.num_nodes > 1 << 32:
            raise InputError("more than 4,294,967,296 distinct texts in one search for near-duplicates", hint="search parts")
        self.digests.add(nodes.digests)
        self.sizes.add(nodes.size_bytes)
        has = nodes.num_shingles > 0
        self._waiting.append((nodes.bands[has], rows[has].astype(np.uint32)))
        self._num_waiting += int(has.sum()) * nodes.bands.shape[1]
        if self._num_waiting >= RUN_RECORDS:
            self._scatter()

    def _scatter(self) -> None:
        from gyral.curate.near import pairs_kernel

        if not self._waiting:
            return
        keys, nodes = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        starts = np.zeros(PARTITIONS + 1, np.int64)
        out_keys, out_nodes = np.empty(keys.size, np.uint64), np.empty(keys.size, np.uint32)
        pairs_kernel.scatter(np.ascontiguousarray(keys), nodes, np.uint64(58), starts, out_keys, out_nodes)
        self._keys.add(starts, out_keys, out_nodes)
        self._waiting, self._num_waiting = [], 0

    def candidates(self, bucket: int) -> Iterator[tuple[np.ndarray, int]]:
        """Pairs of each partition, `a << 32 | b`, ascending and each once, and how many of its buckets were too large.

        Keys are let go when all were read.
        """
        from gyral.curate.near import pairs_kernel

        self._scatter()
        digests, sizes = self.digests.open(), self.sizes.open()
        for partition in range(PARTITIONS):
            keys, nodes = self._keys.read(partition)
            order = np.argsort(keys)
            keys, nodes = keys[order], nodes[order]
            del order
            num, num_large = pairs_kernel.count_pairs(keys, bucket) if len(keys) else (0, 0)
            pairs, large = np.empty(num, np.uint64), np.empty((num_large, 2), np.int64)
            num = pairs_kernel.fill_pairs(keys, nodes, bucket, pairs, large)
            found = [pairs[:num]] + [_sparse(nodes[begin:end], digests, sizes, bucket // 4) for begin, end in large]
            yield np.unique(np.concatenate(found)), num_large
        self._keys.close()

    def close(self) -> None:
        for each in (self.digests, self.sizes, self._keys):
            each.close()


def _sparse(nodes: np.ndarray, digests: np.ndarray, sizes: np.ndarray, degree: int) -> np.ndarray:
    nodes = np.unique(nodes)
    digest = digests[nodes]
    members = nodes[np.lexsort((digest[:, 1], digest[:, 0], -sizes[nodes]))].astype(np.uint64)
    degree = min(degree, len(members))
    one, other = [], []
    for hub in range(degree):
        one.append(np.full(len(members) - hub - 1, members[hub]))
        other.append(members[hub + 1 :])
    for step in range(1, degree + 1):
        one.append(members[degree:-step])
        other.append(members[degree + step :])
    return _code(np.concatenate(one), np.concatenate(other))


def _code(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(one, other) << np.uint64(32) | np.maximum(one, other))


def partition_pairs(pairs: Iterable[np.ndarray], num_nodes: int, spill: Spill) -> None:
    """Put ascending pairs into partitions of their smaller node."""
    bounds = (np.arange(1, PARTITIONS, dtype=np.uint64) * np.uint64(num_nodes) // np.uint64(PARTITIONS)) << np.uint64(32)
    for each in pairs:
        if len(each):
            starts = np.concatenate([[0], np.searchsorted(each, bounds), [len(each)]])
            spill.add(starts, each)
