"""Near-duplicates among distinct texts: candidates by their bands, and the true Jaccard of every one of them.

The result is a function of the set of contents: which nodes there are decides which pairs are tried, and a pair's Jaccard is
one of its two texts. So an index that grows gives what one from scratch gives, and only pairs not met before are verified.

Memory is bounded by `memory_bytes` a structure (keys, pairs, sets of shingles); beyond it they lie in files. Texts are asked
for once, ascending, and only those of candidates that are not known.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gyral.config.curation import Dedup
from gyral.curate.near.candidates import PARTITIONS, Index, Nodes, partition_pairs
from gyral.curate.near.known import KnownPairs
from gyral.curate.near.shingle import TOKENIZER, Shingles, shingle_sets
from gyral.curate.near.spill import Column, Spill
from gyral.errors import ConfigError, InputError
from gyral.files import staging_folder
from gyral.progress import Meter

__all__ = ["Nodes", "Pairs", "Settings", "find_pairs"]

Texts = Callable[[np.ndarray], Iterator[pa.StringArray]]


class Settings(NamedTuple):
    """What a pair is.

    Attributes
    ----------
    shingles : of whose sets the Jaccard is taken; those of the stage that made the bands.
    floor : pairs below it are forgotten, so no threshold can be set lower.
    bucket : nodes of one band key that all meet each other.
    memory_bytes : of each structure that is kept in memory.
    """

    shingles: Shingles = Shingles()
    floor: float = 0.5
    bucket: int = 64
    memory_bytes: int = 256 << 20

    @classmethod
    def of(cls, dedup: Dedup) -> Settings:
        """As they are configured.

        Raises
        ------
        ConfigError : the threshold of removal is below what is kept of the pairs.
        """
        if dedup.jaccard < dedup.floor:
            raise ConfigError(
                f"`dedup.jaccard = {dedup.jaccard}` is below `dedup.floor = {dedup.floor}`, so its pairs are not known",
                hint=f"set `dedup.floor` to {dedup.jaccard} or less",
            )
        return cls(Shingles(dedup.shingle_words, dedup.shingle_chars, dedup.compatible), dedup.floor, dedup.bucket)

    @property
    def digest(self) -> str:
        """Of all that a pair's Jaccard depends on."""
        return hashlib.sha256(repr((TOKENIZER, tuple(self.shingles), float(self.floor))).encode()).hexdigest()[:16]


class Pairs(NamedTuple):
    """Verified pairs, ascending.

    Attributes
    ----------
    a, b : int64, nodes, a < b.
    jaccard : float32, of their sets of shingles, `floor` or more.
    counts : `candidates`, `known` and `verified` of them, `below_floor`, `capped_buckets`, `texts_read`.
    """

    a: np.ndarray
    b: np.ndarray
    jaccard: np.ndarray
    counts: dict[str, int] = {}


def find_pairs(nodes: Iterable[Nodes], texts: Texts, how: Settings, folder: Path, meter: Meter | None = None) -> Pairs:
    """Find the pairs of nodes whose texts are near to each other.

    Parameters
    ----------
    nodes : batches of distinct texts; nodes are numbered in this order.
    texts : yields the texts of nodes, which are given ascending, in that order, batch by batch; called once at most.
    folder : keeps what was verified, for the next time; and what does not fit into memory, until the end.

    Raises
    ------
    InputError : `texts` yields more or fewer texts than were asked for.
    """
    known = KnownPairs(folder / f"verified-{how.digest}")
    with staging_folder(folder, "search") as scratch:
        index = Index(scratch, how.memory_bytes)
        pairs = Spill(scratch, "pairs", (np.uint64,), how.memory_bytes)
        checked = Spill(scratch, "checked", (np.uint64, np.float32), how.memory_bytes)
        sets = _Sets(scratch, how)
        try:
            for batch in nodes:
                index.add(batch)
            counts = {"candidates": 0, "known": 0, "verified": 0, "below_floor": 0, "capped_buckets": 0, "texts_read": 0}
            _collect(index, how, pairs, counts)
            needed = _look_up(index, known, pairs, checked, counts)
            counts["texts_read"] = len(needed)
            if len(needed):
                sets.read(needed, texts(needed), meter)
            return _verify(index, known, checked, sets, how, counts)
        finally:
            for each in (index, pairs, checked, sets):
                each.close()


def _collect(index: Index, how: Settings, pairs: Spill, counts: dict[str, int]) -> None:
    def found() -> Iterator[np.ndarray]:
        for some, num_large in index.candidates(how.bucket):
            counts["capped_buckets"] += num_large
            yield some

    partition_pairs(found(), index.num_nodes, pairs)


def _names(digests: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from gyral.curate.near import pairs_kernel

    a, b = (codes >> np.uint64(32)).astype(np.int64), (codes & np.uint64(0xFFFFFFFF)).astype(np.int64)
    names: tuple[np.ndarray, np.ndarray] = pairs_kernel.pair_keys(digests[a], digests[b])
    return names


def _look_up(index: Index, known: KnownPairs, pairs: Spill, checked: Spill, counts: dict[str, int]) -> np.ndarray:
    """Move the pairs, each once and with its Jaccard if it is known, to `checked`; the nodes whose texts must be read."""
    is_needed = np.zeros(index.num_nodes, np.bool_)
    for partition in range(PARTITIONS):
        codes = np.unique(pairs.read(partition)[0])
        if not len(codes):
            continue
        jaccard = known.find(*_names(index.digests.open(), codes))
        new = codes[np.isnan(jaccard)]
        is_needed[(new >> np.uint64(32)).astype(np.int64)] = True
        is_needed[(new & np.uint64(0xFFFFFFFF)).astype(np.int64)] = True
        counts["candidates"] += len(codes)
        counts["known"] += len(codes) - len(new)
        counts["verified"] += len(new)
        starts = np.zeros(PARTITIONS + 1, np.int64)
        starts[partition + 1 :] = len(codes)
        checked.add(starts, codes, jaccard)
    pairs.close()
    return np.flatnonzero(is_needed)


class _Sets:
    """Sets of shingles of the nodes that must be verified, in node order."""

    def __init__(self, folder: Path, how: Settings) -> None:
        self._how = how
        self._hashes = Column(folder / "hashes", np.uint64, 0, how.memory_bytes)
        self._rows = np.empty(0, np.int64)
        self._offsets = np.zeros(1, np.int64)

    def read(self, rows: np.ndarray, texts: Iterator[pa.StringArray], meter: Meter | None) -> None:
        self._rows, self._offsets = rows, np.zeros(len(rows) + 1, np.int64)
        done = 0
        for batch in texts:
            hashes, ends = shingle_sets(batch, self._how.shingles)
            if done + len(ends) <= len(rows):
                self._offsets[done + 1 : done + 1 + len(ends)] = self._offsets[done] + ends
                self._hashes.add(hashes)
            done += len(ends)
            if meter is not None:
                meter.update(done, total=len(rows))
        if done != len(rows):
            raise InputError(f"{len(rows):,} texts were asked for, and {done:,} came", where="near-duplicates")

    def jaccards(self, codes: np.ndarray) -> np.ndarray:
        """Of pairs, in blocks whose sets fit into memory."""
        from gyral.curate.near import pairs_kernel

        left = np.searchsorted(self._rows, (codes >> np.uint64(32)).astype(np.int64))
        right = np.searchsorted(self._rows, (codes & np.uint64(0xFFFFFFFF)).astype(np.int64))
        lengths = np.diff(self._offsets)
        block = np.cumsum(8 * (lengths[left] + lengths[right])) // self._how.memory_bytes
        out = np.empty(len(codes), np.float32)
        for begin, end in _runs(block):
            # Opened anew for each block: pages of the file that were read go with the old mapping.
            hashes = self._hashes.open()
            pairs_kernel.jaccards(hashes, self._offsets, left[begin:end], right[begin:end], self._how.floor, out[begin:end])
        return out

    def close(self) -> None:
        self._hashes.close()


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    bounds = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return itertools.pairwise(bounds)


def _verify(index: Index, known: KnownPairs, checked: Spill, sets: _Sets, how: Settings, counts: dict[str, int]) -> Pairs:
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    fresh: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for partition in range(PARTITIONS):
        codes, jaccard = checked.read(partition)
        new = np.isnan(jaccard)
        if new.any():
            jaccard[new] = sets.jaccards(codes[new])
            fresh.append((*_names(index.digests.open(), codes[new]), jaccard[new]))
        near = jaccard >= np.float32(how.floor)
        counts["below_floor"] += int(len(near) - near.sum())
        kept.append((codes[near], jaccard[near]))
    if fresh:
        known.store(*(np.concatenate(column) for column in zip(*fresh, strict=True)))
    codes, jaccard = (np.concatenate(column) for column in zip(*kept, strict=True))
    a, b = (codes >> np.uint64(32)).astype(np.int64), (codes & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return Pairs(a, b, jaccard, counts)
