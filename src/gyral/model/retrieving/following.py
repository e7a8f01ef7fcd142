"""An index that follows a replica: a `Known` whose flips also change an index of its objects.

A follower puts rows into it as into any `Known`. Only the rows that changed are upserted, and the index gets the flip's version
in the same step, so an answer that was searched in it says which flip it is of. Objects are found by the product with their
row; biases and what is popular lately are for the ranking after it.

Shapes: K rows, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gyral.model.live import tables as t
from gyral.model.live.known import Known, View
from gyral.model.retrieving.index import Index


class Followed:
    """Stands in for `known`, and keeps `index` beside it."""

    def __init__(self, known: Known, index: Index | None = None) -> None:
        self._known = known
        self.index = index if index is not None else Index()
        self.index.build(known.view.objects.q_VD.copy(), str(known.view.version))
        self._changed: set[int] = set()
        self._forgotten: set[int] = set()
        self._held = len(known.view.r_VD)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._known, name)

    def put(self, table: str, keys_K: np.ndarray, rows_KD: np.ndarray) -> None:
        """See `Known.put`."""
        self._known.put(table, keys_K, rows_KD)
        self._mark(table, keys_K)

    def gone(self, table: str, keys_K: np.ndarray) -> None:
        """See `Known.gone`: the rows are as if nobody had pushed them, and are found by that."""
        self._known.gone(table, keys_K)
        self._mark(table, keys_K)

    def forget(self, codes: np.ndarray) -> None:
        """Objects that are not to be found from the next flip on, until rows of them are put."""
        self._forgotten.update(codes.tolist())

    def flip(self) -> View:
        """See `Known.flip`."""
        view = self._known.flip()
        num = len(view.r_VD)
        self._changed.update(range(self._held, num))
        now = np.array(sorted(code for code in self._changed if code < num), np.int64)
        self._changed = {code for code in self._changed if code >= num}
        gone = np.array(sorted(self._forgotten), np.int64)
        self.index.change(now, view.objects.q_VD[now], gone, str(view.version))
        self._held, self._forgotten = num, set()
        return view

    def _mark(self, table: str, keys_K: np.ndarray) -> None:
        if table == t.ITEM:
            codes = np.asarray(keys_K).tolist()
            self._changed.update(codes)
            self._forgotten.difference_update(codes)
