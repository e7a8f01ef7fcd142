"""Which event ids are in the table already: exact, in memory, rebuilt from the table, so never a second truth.

The ids of a table are held as Arrow strings (36 B each) and probed with one hash pass; they are read once per process and then
follow the commits. First come, first served: a later event with a known id is a duplicate whatever it holds.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.lake.table import Snapshot


class SeenIds:
    """The ids of one table, kept in step with the version that `refresh` saw last."""

    def __init__(self) -> None:
        self._version = -1
        self._chunks: list[pa.Array] = []

    def refresh(self, snapshot: Snapshot) -> None:
        """Read the ids of a version unless it is the one already held."""
        if snapshot.version != self._version:
            self._chunks = [batch.column(0) for batch in snapshot.scan(["event_id"])]
            self._version = snapshot.version

    def is_new(self, ids: pa.Array) -> np.ndarray:
        """Mask of the ids that are in neither the table nor earlier in `ids`."""
        fresh = np.zeros(len(ids), dtype=bool)
        encoded = ids.dictionary_encode()
        _, first = np.unique(encoded.indices.to_numpy(), return_index=True)
        fresh[first] = True
        if self._chunks:
            held = pa.chunked_array(self._chunks)
            known = pc.index_in(held, value_set=encoded.dictionary).drop_null().to_numpy()
            fresh[first[known]] = False  # np.unique sorts the dictionary codes, so first[code] is the first row of a code
        return fresh

    def committed(self, snapshot: Snapshot, ids: pa.Array) -> None:
        """Follow a commit made on the version last refreshed."""
        self._chunks.append(ids)
        self._version = snapshot.version
