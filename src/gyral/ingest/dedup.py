"""Which event ids are in the table already: exact, in memory, rebuilt from the table, so never a second truth.

The ids of a table are held as Arrow strings beside sorted 64-bit hashes (48 B an id of 32 characters). New ids are looked up by
their hashes, and what is found is compared with the id itself, so a collision costs a comparison and never an event. A look-up
costs the logarithm of what is held: probing every held id for each commit, which this replaced, took 11 times the CPU for ten
times the rows and 280 ms a commit at 20 M ids. Ids are read once per process and then follow the commits. First come, first
served: a later event with a known id is a duplicate whatever it holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.event.codec import mix64
from gyral.lake.table import Snapshot

WORD = 8
SEED = np.uint64(0x9E3779B97F4A7C15)


class SeenIds:
    """The ids of one table, kept in step with the version that `refresh` saw last."""

    def __init__(self) -> None:
        self._version = -1
        self._held = Held()
        self._planned = _Run(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))

    def refresh(self, snapshot: Snapshot) -> None:
        """Read the ids of a version unless it is the one already held."""
        if snapshot.version != self._version:
            self._held = Held()
            for batch in snapshot.scan(["event_id"]):
                self._held.add(batch.column(0))
            self._version = snapshot.version

    def is_new(self, ids: pa.Array) -> np.ndarray:
        """Mask of the ids that are in neither the table nor earlier in `ids`."""
        run = _sorted(hash64(ids))
        fresh = ~self._held.has(ids, run)
        if np.any(run.hashes[1:] == run.hashes[:-1]):  # the same id twice, or as good as never a collision
            _, first = np.unique(ids.dictionary_encode().indices.to_numpy(), return_index=True)
            is_first = np.zeros(len(ids), dtype=bool)
            is_first[first] = True
            fresh &= is_first
        kept = fresh[run.rows]
        self._planned = _Run(run.hashes[kept], (np.cumsum(fresh) - 1)[run.rows[kept]])
        return fresh

    def committed(self, snapshot: Snapshot, ids: pa.Array) -> None:
        """Follow a commit, made on the version last refreshed, of the ids that `is_new` last called new."""
        self._held.add(ids, self._planned)
        self._version = snapshot.version


class _Run(NamedTuple):
    """Sorted hashes, and for each the row of its id."""

    hashes: np.ndarray
    rows: np.ndarray


class Held:
    """Ids in the order they came, and runs of their hashes, each at least twice as long as the next."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._runs: list[_Run] = []
        self._count = 0

    def add(self, ids: pa.Array, run: _Run | None = None) -> None:
        """Hold more ids; `run` are their hashes when they are known."""
        if len(ids) == 0:
            return
        run = run if run is not None else _sorted(hash64(ids))
        run = _Run(run.hashes, run.rows + self._count)
        self._chunks.append(ids)
        self._count += len(ids)
        while self._runs and len(self._runs[-1].hashes) < 2 * len(run.hashes):
            run = _merged(self._runs.pop(), run)
        self._runs.append(run)

    def has(self, ids: pa.Array, asked: _Run) -> np.ndarray:
        """Mask of the ids that are held.

        Parameters
        ----------
        asked : the hashes of `ids`, sorted: looked up in order, they are found in half the time.
        """
        found = np.zeros(len(ids), dtype=bool)
        for run in self._runs:
            place = np.searchsorted(run.hashes, asked.hashes)
            candidate = np.arange(len(asked.hashes))
            while True:  # once, unless two held ids share a hash
                at = place[candidate]
                same = run.hashes[np.minimum(at, len(run.hashes) - 1)] == asked.hashes[candidate]
                candidate = candidate[same & (at < len(run.hashes))]
                if len(candidate) == 0:
                    break
                held = pa.chunked_array(self._chunks).take(pa.array(run.rows[place[candidate]]))
                equal = np.array(pc.equal(held, ids.take(pa.array(asked.rows[candidate]))))
                found[asked.rows[candidate[equal]]] = True
                candidate = candidate[~equal]
                place[candidate] += 1
        return found


def _sorted(hashes: np.ndarray) -> _Run:
    order = np.argsort(hashes)  # the order of equal ones does not matter, and a stable sort takes five times as long
    return _Run(hashes[order], order)


def _merged(one: _Run, two: _Run) -> _Run:
    hashes = np.concatenate([one.hashes, two.hashes])
    order = np.argsort(hashes, kind="stable")  # two sorted runs: the sort only merges them
    return _Run(hashes[order], np.concatenate([one.rows, two.rows])[order])


def hash64(ids: pa.Array) -> np.ndarray:
    """A 64-bit hash of each string, uint64; the same string has the same hash in every array and process.

    Words of 8 bytes are mixed in one after the other. Strings of one length, the usual ids, are taken as a matrix.
    """
    count = len(ids)
    offsets = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + count + 1].astype(np.int64)
    data = np.frombuffer(ids.buffers()[2] or b"", np.uint8)
    length = np.diff(offsets)
    longest = int(length.max(initial=0))
    width = -(-longest // WORD) * WORD
    hashes = length.astype(np.uint64) * SEED
    if longest and (length == longest).all():
        words = np.zeros((count, width), dtype=np.uint8)
        words[:, :longest] = data[offsets[0] : offsets[-1]].reshape(count, longest)
        for word in words.view(np.uint64).T:
            hashes = mix64((hashes ^ word) + SEED)
        return hashes
    for start in range(0, width, WORD):
        rows = np.flatnonzero(length > start)
        at = offsets[rows, None] + start + np.arange(WORD)
        inside = at < offsets[rows + 1, None]
        block = np.where(inside, data[np.where(inside, at, 0)], 0).astype(np.uint8)
        hashes[rows] = mix64((hashes[rows] ^ np.ascontiguousarray(block).view(np.uint64)[:, 0]) + SEED)
    return hashes
