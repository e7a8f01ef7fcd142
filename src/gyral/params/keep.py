"""What a shard needs of its disk: one part of a cut written so that it stays, and all of it read again.

A cut goes over a shard's buckets range by range between requests, so that no request waits for all of it. Each part carries the
rows *and* which push of each worker they hold, so a part is true by itself: after a crash some ranges may be older than others,
and the workers' pushes, sent again, bring each bucket forward from where it is (`gyral.params.held`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from gyral.params.records import Changes, Records
from gyral.params.spec import TableSpec


class Part(NamedTuple):
    """What changed in the buckets `first` to `last` of a table since the part before of the same buckets.

    Attributes
    ----------
    versions : uint64 [N], of `changes.buckets`, after this part; each is one more than before.
    workers : int64 [W], whom the columns of `applied` belong to, ascending.
    applied : uint64 [last − first, W], the last push of each worker that each bucket of the range holds.
    notes : of the shard, opaque: who its workers are.
    event_s : the newest event time that was pushed, 0: none was said.
    acknowledged_s : when the newest push in this part was applied, by this machine's clock (seconds since the epoch).
    owner_epoch : of the shard; a part of an older one is refused.
    rows : uint32 [N], how many `changes.buckets` have now: who follows compares.
    """

    table: str
    first: int
    last: int
    changes: Changes
    versions: np.ndarray
    workers: np.ndarray
    applied: np.ndarray
    notes: bytes = b""
    event_s: int = 0
    acknowledged_s: float = 0.0
    owner_epoch: int = 0
    rows: np.ndarray | None = None


class Kept(NamedTuple):
    """One bucket as it was last written; `workers` and `applied` [W] as in `Part`."""

    bucket: int
    records: Records
    counters: np.ndarray
    version: int
    workers: np.ndarray
    applied: np.ndarray


class Keep(Protocol):
    """A shard's folder, or what stands for one."""

    def write(self, part: Part) -> None:
        """Durable when it returns. Called by one thread at a time, which need not be that of the shard."""

    def recover(self, spec: TableSpec) -> Iterator[Kept]:
        """Each bucket that was ever in a part's range, once."""

    def notes(self) -> bytes:
        """Of the newest part; empty where nothing was written."""
