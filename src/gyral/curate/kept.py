"""Rows that are still in while one step after the other drops some, and where each came from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Kept:
    """The rows that no step has dropped yet.

    Attributes
    ----------
    rows : a table.
    places : the number of each row of the table in the order that rows were seen, int64.
    reasons : for every row seen, 0 kept, −1 not selected, else the number of its reason.
    names : reasons by number; "" is 0.
    """

    def __init__(self, rows: pa.Table, reasons: np.ndarray, names: list[str]) -> None:
        self.rows, self.reasons, self.names = rows, reasons, names
        self.places = np.flatnonzero(reasons == 0)

    def drop(self, mask: np.ndarray, reason: str) -> int:
        """Drop the rows of a mask; returns how many."""
        self.names.append(reason)
        if not mask.any():
            return 0
        self.reasons[self.places[mask]] = len(self.names) - 1
        self.places, self.rows = self.places[~mask], self.rows.filter(pa.array(~mask))
        return int(mask.sum())

    def sort_by_time(self) -> None:
        """Bring the rows in order of event time; what happened at one time stays in order."""
        order = np.argsort(self.times, kind="stable")
        self.rows, self.places = self.rows.take(pa.array(order)), self.places[order]

    @property
    def times(self) -> np.ndarray:
        """Event times in microseconds, int64 [n]."""
        return np.asarray(self.rows["event_time"].cast(pa.int64()).to_numpy())

    def codes(self, *names: str) -> np.ndarray:
        """A number for each distinct combination of some columns, int64 [n]."""
        result = np.zeros(self.rows.num_rows, dtype=np.int64)
        for name in names:
            encoded = pc.fill_null(self.rows[name], "").combine_chunks().dictionary_encode()
            result = result * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy()
        return result
