"""Documents as they come into the lake, for a training that goes on learning from them: `lake:`, or `lake:NAME` of one source.

A row is told by where it came from in the log, `(src_partition, src_offset, src_index)`, which is unique, never changes and is
in every version of the table. So a range of a stream is an interval of offsets a partition, and whoever reads it again gets the
same rows in the same order from any later version: compaction moves rows and changes no place, what is committed later lies
above, and nothing has to be pinned. A pinned version would keep what was erased since.

A range ends between two batches of the log, so it has whole batches, and one at least. Where more is new than a range may have,
each partition gets the same share: one that never ends cannot hold up another. Finding a range reads two columns of the table,
0.1 s a million rows; its texts are read by condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.errors import NotFound, UsageError
from gyral.lake.commit import LakeError
from gyral.lake.dataset import Dataset, Manifest
from gyral.lake.snapshot import Snapshot
from gyral.lake.sql import literal
from gyral.lake.table import Lake

SCHEME = "lake:"
KIND = "document"
COLUMNS = ["event_id", "object", "language", "props"]
PLACE = ["src_partition", "src_offset", "src_index"]
TRIES = 3
T = TypeVar("T")

Offsets = Mapping[str, int]
"""Partition of the log → the first offset that is not meant; a partition that is not named has none."""


class Arrivals(Dataset):
    """What comes into a lake, as what `train` is asked to learn from.

    Parameters
    ----------
    root : the project folder.
    name : `lake:`, or `lake:NAME`.
    """

    digest = "live"
    """What a training pins of it: nothing; its ranges are pinned one by one."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root, Manifest(dataset=name, kind="text", source=name))
        self.app = name.removeprefix(SCHEME)

    @property
    def title(self) -> str:
        """What a model of it is called."""
        return self.app or "lake"

    def require(self, kind: str, what: str) -> Self:
        """Only texts come this way.

        Raises
        ------
        UsageError : something else is wanted.
        """
        if kind != "text":
            hint = "train on a dataset: `gyral curate` first"
            raise UsageError(f"`{self.name}` is a live stream of texts, and {what} learns from {kind}", hint=hint)
        return self


class Found(NamedTuple):
    """New documents: where they end, the version of the table, and their rows in order."""

    until: dict[str, int]
    version: int
    rows: pa.Table


def committed(lake: Lake) -> dict[str, int]:
    """How far the lake has the log now."""
    return lake.snapshot("events").offsets if lake.exists("events") else {}


def newer(lake: Lake, app: str, since: Offsets, limit: int) -> Found | None:
    """Documents behind some offsets; None: there are none.

    Parameters
    ----------
    app : name of their source; empty: all.
    limit : documents, about: whole batches of the log are taken.
    """
    if not lake.exists("events"):
        return None

    def look(snapshot: Snapshot) -> Found | None:
        end = snapshot.offsets
        where = _between(app, since, end)
        keys = snapshot.read(PLACE[:2], where) if where else None
        if keys is None or not keys.num_rows:
            return None
        until = _cut(keys, end, limit)
        until = {partition: offset for partition, offset in until.items() if offset > since.get(partition, 0)}
        return Found(until, snapshot.version, _rows(snapshot, _between(app, since, until)))

    return _newest(lake, look)


def between(lake: Lake, app: str, since: Offsets, until: Offsets) -> pa.Table:
    """Documents of a range, in order; those that were erased since are not there.

    Raises
    ------
    LakeError : the lake ends before it.
    """

    def look(snapshot: Snapshot) -> pa.Table:
        short = [partition for partition, offset in until.items() if snapshot.offsets.get(partition, 0) < offset]
        if short:
            has = snapshot.offsets.get(short[0], 0)
            why = f"of the log's partition `{short[0]}` it has {has:,} batches, not {until[short[0]]:,}"
            raise LakeError("the lake is older than the stream that was read from it", why=why, where=lake.place.uri)
        return _rows(snapshot, _between(app, since, until))

    return _newest(lake, look)


def lake_of(arrivals: Arrivals, config: Config) -> Lake:
    """The lake that documents come into."""
    return Lake.of(arrivals.folder, config)


def _newest(lake: Lake, look: Callable[[Snapshot], T]) -> T:
    """Look at the newest version; at the next one where an erasure took its files meanwhile."""
    for attempt in range(TRIES):
        snapshot = lake.snapshot("events")
        try:
            return look(snapshot)
        except LakeError:
            if attempt + 1 == TRIES or lake.snapshot("events").version == snapshot.version:
                raise
    raise NotFound("no version of the lake's events could be read", where=lake.place.uri)


def _rows(snapshot: Snapshot, where: str) -> pa.Table:
    found = snapshot.read([*COLUMNS, *PLACE], where)
    return found.sort_by([(name, "ascending") for name in PLACE])


def _between(app: str, since: Offsets, until: Offsets) -> str:
    """Condition of the documents between offsets; empty where there is room for none."""
    parts = [
        f"(src_partition = {literal(partition)} AND src_offset >= {since.get(partition, 0)} AND src_offset < {offset})"
        for partition, offset in sorted(until.items())
        if offset > since.get(partition, 0)
    ]
    if not parts:
        return ""
    of_app = f" AND app = {literal(app)}" if app else ""
    return f"kind = {literal(KIND)}{of_app} AND ({' OR '.join(parts)})"


def _cut(keys: pa.Table, end: Offsets, limit: int) -> dict[str, int]:
    """Where a range ends that has at most so many rows of these, or one batch of each partition."""
    if keys.num_rows <= limit:
        return dict(end)
    until = dict(end)
    names = keys["src_partition"].unique().to_pylist()
    share = max(1, limit // len(names))
    for name in names:
        offsets = np.sort(keys.filter(pc.equal(keys["src_partition"], name))["src_offset"].to_numpy())
        if len(offsets) > share:
            # Of the batch that goes over the share nothing is taken, unless it is the first.
            until[name] = max(int(offsets[share]), int(offsets[0]) + 1)
    return until
