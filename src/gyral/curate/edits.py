"""What a reader of a dataset leaves out of kept texts, or replaces: ranges of bytes, so a text itself is never changed.

Ranges come from the stages (`Cut`) and from paragraphs that a document before has. Where ranges meet, the one that begins first
wins, and what is left of the other goes with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.curate.decide import Decisions, read
from gyral.curate.stage import Cut
from gyral.curate.text import paragraphs
from gyral.lake.dataset import Rule
from gyral.lake.documents import ShardFiles

PARAGRAPHS = ("paragraphs", "paragraph_bounds", "num_bytes")
EDITS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("begin", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("replacement", pa.string(), nullable=False),
    ]
)


def lost_bytes(table: pa.Table, num_documents: int) -> np.ndarray:
    """Bytes that each document loses by its edits, int64 [n]; below 0 where it grows."""
    shrunk = pc.subtract(pc.subtract(table["end"], table["begin"]), pc.binary_length(table["replacement"])).to_numpy()
    lost: np.ndarray = np.bincount(table["row"].to_numpy(), weights=shrunk, minlength=num_documents).astype(np.int64)
    return lost


class Ranges:
    """Ranges of texts, gathered from several places."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, rows: np.ndarray, begins: np.ndarray, ends: np.ndarray, number: int) -> None:
        """Add ranges of rows, in bytes, that are of the cut with this number."""
        self._parts.append((rows.astype(np.int64), np.stack([begins, ends]).astype(np.int64), np.full(len(rows), number)))

    def table(self, cuts: Sequence[Cut], is_kept: np.ndarray) -> pa.Table:
        """Those of kept documents in order, none over another."""
        rows, bounds, numbers = (
            (np.concatenate([part[each] for part in self._parts], axis=-1) for each in range(3))
            if self._parts
            else (np.zeros(0, np.int64), np.zeros((2, 0), np.int64), np.zeros(0, np.int64))
        )
        mine = np.flatnonzero(is_kept[rows])
        order = mine[np.lexsort((-bounds[1, mine], bounds[0, mine], rows[mine]))]
        rows, (begins, ends), numbers = rows[order], bounds[:, order], numbers[order]
        reached = np.maximum.accumulate((rows << 32) + ends) if len(rows) else rows
        before = np.r_[np.int64(-1), reached[:-1]]
        begins = np.where(before >> 32 == rows, np.maximum(begins, before & 0xFFFFFFFF), begins)
        there = np.flatnonzero(begins < ends)
        codes = pa.array(numbers[there])
        return pa.Table.from_arrays(
            [
                pa.array(rows[there]),
                pa.array(begins[there].astype(np.int32)),
                pa.array(ends[there].astype(np.int32)),
                pa.array([each.rule for each in cuts], pa.string()).take(codes),
                pa.array([each.replacement for each in cuts], pa.string()).take(codes),
            ],
            schema=EDITS,
        )


def of_stages(shards: Sequence[ShardFiles], decisions: Decisions, cuts: Sequence[Cut], ranges: Ranges) -> None:
    """The ranges that stages found, of documents that are kept."""
    at = 0
    for shard in shards:
        kept = pa.array(np.flatnonzero(decisions.is_kept[at : at + shard.rows]))
        table = read(shard.signals, [cut.column for cut in cuts])
        for number, cut in enumerate(cuts):
            if cut.column in table.schema.names:
                _add(ranges, table[cut.column].combine_chunks(), kept, at, number)
        at += shard.rows


def of_paragraphs(
    shards: Sequence[ShardFiles], decisions: Decisions, max_share: float, rule: Rule, number: int, ranges: Ranges
) -> tuple[int, int]:
    """Drop documents that are little but repeated paragraphs, and cut those paragraphs out of the others.

    Returns
    -------
    How many paragraphs were looked at, and how many of them are repetitions.
    """
    rows, starts, hashes, bounds, sizes = [], [np.zeros(1, np.int64)], [], [], []
    at = total = 0
    for shard in shards:
        table = read(shard.signals, PARAGRAPHS)
        kept = np.flatnonzero(decisions.is_kept[at : at + shard.rows])
        if "paragraphs" in table.schema.names and len(kept):
            table = table.take(pa.array(kept))
            lists = table["paragraphs"].combine_chunks()
            counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
            rows.append(kept + at)
            starts.append(total + np.cumsum(counts))
            total += int(counts.sum())
            hashes.append(lists.flatten().to_numpy())
            bounds.append(table["paragraph_bounds"].combine_chunks().flatten().to_numpy())
            sizes.append(table["num_bytes"].to_numpy())
        at += shard.rows
    if not total:
        return 0, 0
    every, edges, places = np.concatenate(rows), np.concatenate(bounds).reshape(-1, 2), np.concatenate(starts)
    lengths, left = np.diff(edges, axis=1)[:, 0].astype(np.int64), np.concatenate(sizes).astype(np.int64)
    stands = np.zeros(len(decisions.rule), bool)
    stands[decisions.twin[decisions.twin >= 0]] = True
    room = np.where(
        stands[every], np.iinfo(np.int64).max >> 1, left
    )  # another was dropped for it: it loses paragraphs, and stays
    is_repeated, is_dropped = paragraphs.keep_first(places, np.concatenate(hashes), lengths, room, max_share)
    owner = np.repeat(np.arange(len(every)), np.diff(places))
    gone = np.bincount(owner, weights=np.where(is_repeated, lengths, 0), minlength=len(every))
    decisions.drop(every[is_dropped], rule, (gone / np.maximum(left, 1))[is_dropped])
    cut = np.flatnonzero(is_repeated & ~is_dropped[owner])
    ranges.add(every[owner[cut]], edges[cut, 0], edges[cut, 1], number)
    return total, int(is_repeated.sum())


def _add(ranges: Ranges, column: pa.Array, kept: pa.Array, at: int, number: int) -> None:
    lists = column.take(kept)
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    edges = lists.flatten().to_numpy().reshape(-1, 2)
    ranges.add(np.repeat(kept.to_numpy() + at, counts // 2), edges[:, 0], edges[:, 1], number)
