"""Following a shard's log: whatever happens to files on their way, a bucket has a version that it had, and soon the newest.

A segment is applied when it is the next version of its bucket, or the whole of a later one. Everything else has a name and is
counted: an older version is a *duplicate*, a later one a *gap*, one of an owner that was replaced is *fenced*, one whose
checksum does not hold is *damaged*. Since each file says the versions of all buckets of its range, a file that never came is
noticed with the next one. A bucket in doubt keeps its rows, and it alone is read again: from base and cuts, or from the shard
(`repair`).

A follower has no place in the log that it must not lose: it knows the versions of what it holds. One that is slow, or comes
back after a week, finds that cuts are gone and reads the base; nobody waits for it, and it misses nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gyral.params.chain import Chain, Source, name_of, numbers
from gyral.params.records import Changes
from gyral.params.segment import UNKNOWN, WHOLE, Bucket, Damaged, File, Listing, changes_of, damaged_in, decode, views

BATCH_BYTES = 8 << 20
REPAIR_S = 1.0
"""How often a bucket is asked for again that could not be repaired."""


class Sink(Protocol):
    """Where rows go, such as a `replica.Writer`. Arrays are by bucket, uint64 [BUCKETS]; applying twice is as once."""

    versions: np.ndarray
    owners: np.ndarray
    counts: np.ndarray

    def patch(self, changes: Changes, versions_N: Any, owners_N: Any) -> None: ...

    def replace(self, bucket: Bucket) -> None: ...

    def mark(self, acknowledged_s: float, event_s: float, now: float) -> None: ...


@dataclass
class Found:
    """What a follower met, counted since it began; all but `parts`, `segments` and `repaired` are zero on a good day."""

    parts: int = 0
    segments: int = 0
    duplicates: int = 0
    gaps: int = 0
    fenced: int = 0
    damaged: int = 0
    repaired: int = 0


class Follower:
    """Of one log (a shard's folder, or what stands for one); several may share their sinks, in one thread.

    Parameters
    ----------
    sinks : by table; others are passed over.
    repair : asks the shard for a bucket of a table as it is; None: it does not answer.
    clock : that of acknowledgements; under replay, the replay's.
    """

    def __init__(
        self, source: Source, sinks: Mapping[str, Sink], repair: Callable[[str, int], Bucket | None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._source, self._sinks, self._repair, self._clock = source, sinks, repair, clock
        self.found, self.number, self._epoch = Found(), 0, 0
        self.broken: dict[tuple[str, int], int] = {}
        """Buckets in doubt, and the version that each should have at least."""
        self._again_s, self._is_new = 0.0, True

    def poll(self) -> int:
        """Apply what came since; how many files that were.

        Damage is counted and mended, not raised; a file of another gyral's format is an `InputError`.
        """
        names = self._source.names()
        cuts, count = [number for number in numbers(names, "cut") if number > self.number], 0
        if self.number == 0 or self.number + 1 not in cuts:
            count += self._from_base(numbers(names, "base"))
        for number in cuts:
            if number <= self.number:
                continue
            try:
                count += self._file("cut", number)
            except FileNotFoundError:  # a base took its place meanwhile
                break
            self.found.gaps += number > self.number + 1
            self.number = number
        self._is_new = False
        if self.broken and (count or time.monotonic() > self._again_s):
            self._again_s = time.monotonic() + REPAIR_S
            self._mend()
        return count

    def run(self, stop: threading.Event, every_s: float = 0.02) -> None:
        """Follow until told to stop."""
        while not stop.is_set():
            self.poll()
            stop.wait(every_s)

    def _from_base(self, bases: list[int]) -> int:
        for number in reversed([number for number in bases if number > self.number]):
            with contextlib.suppress(FileNotFoundError):
                if self._file("base", number):
                    self.number = number
                    return 1
        return 0

    def _file(self, kind: str, number: int) -> int:
        name = name_of(kind, number)
        file = self._source.open(name)
        try:
            listing = decode(file)
            if listing.number != number or listing.base != (kind == "base"):
                raise Damaged(name, f"it is number {listing.number} under another name")
            if listing.epoch < self._epoch:
                self.found.fenced += 1
                return 0
            self._epoch = listing.epoch
            self._apply(file, listing)
        except Damaged:
            self.found.damaged += 1
            return 0
        finally:
            file.close()
        self.found.parts += 1
        return 1

    def _apply(self, file: File, listing: Listing) -> None:
        applied: set[str] = set()
        for place, spec in enumerate(listing.specs):
            if spec.name not in self._sinks:
                continue
            sink = self._sinks[spec.name]
            entries = listing.entries[listing.entries["table"] == place]
            if not listing.base and not self._is_new:
                self.found.duplicates += int((~_is_newer(entries, sink)).sum())
            for at, buffer, batch in _batches(file, listing, entries, sink):
                if self._batch(sink, spec.name, listing, batch, buffer, at):
                    applied.add(spec.name)
            newest = listing.versions[place]
            of = slice(listing.first, listing.last)
            behind = (newest > sink.versions[of]) & (listing.owner >= sink.owners[of])
            for bucket in np.flatnonzero(behind).tolist():
                self._doubt(spec.name, listing.first + bucket, int(newest[bucket]))
        for name in applied:
            if listing.acknowledged_s:
                self._sinks[name].mark(listing.acknowledged_s, listing.event_s, self._clock())

    def _batch(self, sink: Sink, table: str, listing: Listing, entries: np.ndarray, buffer: np.ndarray, at: int) -> int:
        """Apply those of one table's segments that may be; how many."""
        numbers_N, versions, owners = entries["bucket"], entries["version"], entries["owner"]
        known = sink.versions[numbers_N]
        is_fenced = owners < sink.owners[numbers_N]
        self.found.fenced += int(is_fenced.sum())
        fits = ~is_fenced & ((entries["kind"] == WHOLE) | (versions == known + np.uint64(1)))
        self.found.gaps += int((~fits & ~is_fenced).sum())
        bad = fits & damaged_in(listing, entries, views(buffer)[0], at)
        self.found.damaged += int(bad.sum())
        for entry in entries[bad | (~fits & ~is_fenced)]:
            self._doubt(table, int(entry["bucket"]), int(entry["version"]))
        fits &= ~bad
        replaced = fits & (entries["kind"] == WHOLE) & (sink.counts[numbers_N] > 0)
        chosen = entries[fits & ~replaced]
        if len(chosen):
            sink.patch(changes_of(listing, chosen, buffer, at), chosen["version"], chosen["owner"])
        for entry in entries[replaced]:
            changes = changes_of(listing, entry[None], buffer, at)
            version, owner = int(entry["version"]), int(entry["owner"])
            sink.replace(Bucket(table, int(entry["bucket"]), version, owner, changes.upserts, changes.counters[0]))
        counted = entries[fits & (entries["rows"] != UNKNOWN)]
        for entry in counted[sink.counts[counted["bucket"]] != counted["rows"]]:
            sink.versions[entry["bucket"]] -= np.uint64(1)
            self._doubt(table, int(entry["bucket"]), int(entry["version"]))
        self.found.segments += int(fits.sum())
        return int(fits.sum())

    def _doubt(self, table: str, bucket: int, version: int) -> None:
        self.broken[table, bucket] = max(self.broken.get((table, bucket), 0), version)

    def _mend(self) -> None:
        """Read buckets in doubt again, each alone."""
        with Chain(self._source, strict=False) as chain:
            for (table, number), version in list(self.broken.items()):
                sink = self._sinks[table]
                if sink.versions[number] >= version:
                    del self.broken[table, number]
                    continue
                try:
                    bucket = chain.bucket(table, number)
                except (Damaged, FileNotFoundError):
                    bucket = None
                if bucket is None or bucket.version < version:
                    bucket = self._repair(table, number) if self._repair else None
                if bucket is None or bucket.version < version or bucket.owner < sink.owners[number]:
                    continue
                sink.replace(bucket)
                del self.broken[table, number]
                self.found.repaired += 1


def _is_newer(entries: np.ndarray, sink: Sink) -> np.ndarray:
    """Which segments say more than what is held: later versions, and whole buckets of a new owner."""
    at = entries["bucket"]
    is_later = entries["version"] > sink.versions[at]
    return np.asarray(is_later | ((entries["kind"] == WHOLE) & (entries["owner"] > sink.owners[at])))


def _batches(file: File, listing: Listing, entries: np.ndarray, sink: Sink) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Those of a table's segments that are newer than what is held, a few MB at a time: where in the file the first begins,
    their bytes, and their entries."""
    ends = np.append(listing.entries["offset"], np.uint64(listing.tail))
    ends = ends[1:][listing.entries["table"] == entries["table"][0]] if len(entries) else ends[:0]
    newer = _is_newer(entries, sink)
    entries, ends = entries[newer], ends[newer]
    if not len(entries):
        return
    chunk = (entries["offset"] - entries["offset"][0]) // np.uint64(BATCH_BYTES)
    for batch in np.split(np.arange(len(entries)), np.flatnonzero(np.diff(chunk)) + 1):
        at, end = int(entries["offset"][batch[0]]), int(ends[batch[-1]])
        buffer = np.empty(end - at, np.uint8)
        if end > at:
            file.read_into(buffer.data, at)
        yield at, buffer, entries[batch]
