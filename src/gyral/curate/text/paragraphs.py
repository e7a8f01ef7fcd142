"""Paragraphs that another document already has: navigation, licences, notes that stand on every page.

The stage hashes each paragraph of some length. Which of two documents keeps it is decided afterwards: the first, in the order
of the source, of those that are kept. So a threshold that brings a document back brings its paragraphs back as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from gyral.curate.stage import CUTS, Stage, add, utf8

HASHES = pa.list_(pa.uint64())


@dataclass(frozen=True)
class Paragraphs(Stage):
    """Adds `paragraphs`, the hashes of paragraphs of `min_chars` characters or more, and `paragraph_bounds`, where they are."""

    name: ClassVar[str] = "paragraphs"
    min_chars: int = 60

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        from gyral.curate.text.paragraphs_kernel import find

        data, offsets = utf8(batch.column("text"))
        counts = np.zeros(batch.num_rows, np.int32)
        total = find(data, offsets, self.min_chars, np.zeros(0, np.uint64), np.zeros(0, np.int32), counts)
        hashes, bounds = np.empty(total, np.uint64), np.empty(2 * total, np.int32)
        if total:
            find(data, offsets, self.min_chars, hashes, bounds, counts)
        places = np.r_[0, np.cumsum(counts)].astype(np.int32)
        return add(
            batch,
            {
                "paragraphs": pa.ListArray.from_arrays(places, pa.array(hashes)).cast(HASHES),
                "paragraph_bounds": pa.ListArray.from_arrays(2 * places, pa.array(bounds)).cast(CUTS),
            },
        )


def keep_first(
    starts: np.ndarray, hashes: np.ndarray, sizes: np.ndarray, left: np.ndarray, max_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which paragraphs a document before has, and which documents would lose more than a share of their bytes by that.

    Parameters
    ----------
    starts : where the paragraphs of each document begin, int64 [n + 1], documents in the order in which they are kept.
    hashes, sizes : of the paragraphs, uint64 [m], and their bytes, int64 [m].
    left : bytes of each document, int64 [n].

    Returns
    -------
    bool [m] and bool [n]. The paragraphs of a document that is dropped do not count as had.
    """
    from gyral.curate.text.paragraphs_kernel import keep_first as kernel

    is_repeated, is_dropped = np.zeros(len(hashes), bool), np.zeros(len(left), bool)
    table = np.zeros(1 << (2 * len(hashes) + 2).bit_length(), np.uint64)
    slots = np.zeros(int(np.diff(starts).max(initial=0)) + 1, np.int64)
    kernel(starts, hashes, sizes, left, max_share, is_repeated, is_dropped, table, slots)
    return is_repeated, is_dropped
