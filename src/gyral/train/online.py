"""Learn from the event log as it grows: what came is a step, each step is written down before it is pushed.

A step takes the entries of every partition since the last one. Which entries that were depended on when they came, so a journal
keeps it: one line a step, on the disk before the step's push. A learner that was killed does the steps again that its tables do
not hold for certain, from the same entries under the same numbers; the tables skip what they have (`applied` of each bucket).
So every event is learned exactly once whoever dies where. The journal also gives objects their codes, in the order in which
they were let in, and says when each entry was acknowledged, from which whoever serves tells how fresh it is.

One fsync a step (at most ten a second) is the price; the events themselves are not written again. Steps that are published are
one line of the journal after a while, so neither it nor what is read at a start grows with them.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from gyral.errors import InputError
from gyral.event.codec import decode_payload
from gyral.log.base import Entry, EventLog
from gyral.log.writer import Gone, LogError
from gyral.model.live.journal import Base, Journal, Step

TAILED = ("events", "ingest")
"""Kinds of partitions that behaviour comes in by; what was answered is in others. A topic has everything in one kind."""
MAX_STEP_EVENTS = 4_096
POLL_S = 0.02
STEP_S = 0.1
"""Between two steps at most: how long what came may wait for more."""


class Met(NamedTuple):
    """Behaviour that is learned from, in the order in which it came.

    Attributes
    ----------
    time_s : event time, seconds since the epoch, int64 [n].
    dropped : rows that were not learned from, by reason.
    """

    subject: list[str]
    object: list[str]
    title: list[str]
    time_s: np.ndarray
    dropped: Counter[str]


class Learns(Protocol):
    """What is learned: the model's side of a step."""

    @property
    def applied(self) -> int:
        """Number of the last step that the tables hold for certain, on the disk; those after it are done again."""

    def admit(self, met: Met) -> tuple[list[str], list[str]]:
        """Objects of these events that shall get codes, and their titles."""

    def name(self, objects: list[str], titles: list[str]) -> None:
        """They got the next codes."""

    def learn(self, step: Step, met: Met) -> None: ...


class Online:
    """The loop of a learner over a log.

    Parameters
    ----------
    curate : rows of the log → what is learned from; by the caller, because the rules are another room's.
    start : partition → the first entry that is learned; of others, all are.
    """

    def __init__(
        self,
        log: EventLog,
        folder: Path,
        curate: Callable[[pa.RecordBatch], Met],
        model: Learns,
        step_s: float = STEP_S,
        start: Mapping[str, int] | None = None,
    ) -> None:
        self.log, self._curate, self._model, self._step_s = log, curate, model, step_s
        self.journal = Journal(folder)
        self.offsets: dict[str, int] = dict(start or {})
        self.events = 0
        """Events that were learned from."""
        self.seen = 0
        """Events that were looked at."""
        self.dropped: Counter[str] = Counter()
        self.hour = 0
        self.last_event = time.monotonic()
        self.trouble = ""
        """Why a log that is elsewhere cannot be read just now; the next step tries again."""
        self._ids = RecentIds()
        self._since = [(0, dict(self.offsets))] * 2
        """(step, offsets) where the collections of ids begin: those of `_ids`, and those before that a cut may still name."""
        self._last_step = 0.0
        self._reading: dict[str, tuple[int, Iterator[Entry]]] = {}
        """Partition → the next offset of a reading that goes on, while steps are done again."""

    def recover(self) -> int:
        """Do again what may not be in the tables; how many steps that were."""
        base, steps = self.journal.found()
        if base.seq:
            self._begin_at(base)
        held = [step for step in steps if step.seq <= self._model.applied]
        for step in held:
            self._model.name(step.objects, step.titles)
            batches = self._read_again(step)
            self._ids.is_new(batches)
            self.seen += sum(batch.num_rows for batch in batches)
            self._passed(step)
        again = steps[len(held) :]
        for step in again:
            self._model.name(step.objects, step.titles)
            self._model.learn(step, self._curated(self._read_again(step)))
            self._passed(step)
        self._reading.clear()
        return len(again)

    def step(self, idle: Callable[[], object] = lambda: None) -> Step | None:
        """Learn what came since the last step; None where nothing did. Waits a moment for more, and calls `idle` meanwhile."""
        until = max(self._last_step + self._step_s, time.monotonic() + POLL_S)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S / 2))
            idle()
        taken, batches, acknowledged = self._read_new()
        if not taken:
            return None
        self._last_step = self.last_event = time.monotonic()
        met = self._curated(batches)
        objects, titles = self._model.admit(met)
        if len(met.time_s):
            self.hour = max(self.hour, int(met.time_s.max()) // 3_600)
        step = Step(self.journal.last + 1, taken, objects, titles, acknowledged, self.hour)
        self.journal.add(step)
        self._model.name(objects, titles)
        self._model.learn(step, met)
        self._turned(step.seq)
        return step

    def cut(self, published: int) -> None:
        """Shorten the journal, where that is worth it and everybody may read up to a step.

        Raises
        ------
        OSError : see `Journal.cut`.
        """
        if self.journal.can_cut(published):
            self.journal.cut(published, self._since)
            while len(self._since) > 2 and self._since[2][0] <= self.journal.cut_at:
                del self._since[0]

    def _begin_at(self, base: Base) -> None:
        """As it was after the last step of a base. Ids are read again from the log, as many as are remembered.

        One that came twice may be known for longer than it was.
        """
        self._model.name(base.objects, base.titles)
        older, newer = base.since
        for first, end in ((older, newer), (newer, base.offsets)):
            self._ids.turn()
            self._since = [self._since[-1], (base.seq, dict(first))]
            for name in end:
                for entry in self._entries(name, first.get(name, 0), end[name]):
                    if (batch := self._events_of(name, entry)) is not None:
                        self._ids.is_new([batch])
        self.offsets, self.seen, self.hour = self.offsets | base.offsets, base.seen, base.hour

    def _passed(self, step: Step) -> None:
        self.offsets.update({name: end for name, (_, end) in step.taken.items()})
        self.hour = max(self.hour, step.hour)
        self._turned(step.seq)

    def _turned(self, seq: int) -> None:
        """Note where a new collection of ids begins, if one does."""
        if self._ids.is_full:
            self._ids.turn()
            self._since.append((seq, dict(self.offsets)))

    def close(self) -> None:
        """The log stays open."""
        self.journal.close()

    def _curated(self, batches: list[pa.RecordBatch]) -> Met:
        new = self._ids.is_new(batches)
        rows = [batch.filter(pa.array(mask)) for batch, mask in zip(batches, new, strict=True)]
        some = [batch for batch in rows if batch.num_rows]
        together = pa.Table.from_batches(some).combine_chunks().to_batches() if some else []
        parts = [self._curate(batch) for batch in together]
        self.seen += sum(batch.num_rows for batch in batches)
        dropped = sum((part.dropped for part in parts), Counter[str]())
        if again := sum(int((~mask).sum()) for mask in new):
            dropped["known"] += again
        met = Met(
            [name for part in parts for name in part.subject],
            [name for part in parts for name in part.object],
            [name for part in parts for name in part.title],
            np.concatenate([part.time_s for part in parts]) if parts else np.zeros(0, np.int64),
            dropped,
        )
        self.dropped += dropped
        self.events += len(met.subject)
        return met

    def _read_new(self) -> tuple[dict[str, tuple[int, int]], list[pa.RecordBatch], list[tuple[int, int]]]:
        taken: dict[str, tuple[int, int]] = {}
        batches: list[pa.RecordBatch] = []
        acknowledged: list[tuple[int, int]] = []
        self.trouble = ""
        try:
            self._take(taken, batches, acknowledged)
        except LogError as error:
            if not self.log.others_write or isinstance(error, Gone):
                raise
            self.trouble = str(error)  # brokers go and come back: what was read of others is a step all the same
        return taken, batches, acknowledged

    def _take(
        self, taken: dict[str, tuple[int, int]], batches: list[pa.RecordBatch], acknowledged: list[tuple[int, int]]
    ) -> None:
        rows = 0
        for partition in self.log.partitions():
            is_tailed = self.log.others_write or partition.rpartition("-")[0] in TAILED
            if not is_tailed or rows >= MAX_STEP_EVENTS:
                continue
            first = self.offsets.get(partition, 0)
            for entry in self.log.read(partition, first):
                self.offsets[partition] = entry.offset + 1
                taken[partition] = (first, entry.offset + 1)
                if (batch := self._events_of(partition, entry)) is not None:
                    batches.append(batch)
                    rows += batch.num_rows
                    acknowledged.append((_newest_us(batch), batch.num_rows))
                if rows >= MAX_STEP_EVENTS:
                    break

    def _events_of(self, partition: str, entry: Entry) -> pa.RecordBatch | None:
        name = f"{partition}:{entry.offset}" if self.log.others_write else ""
        batch = decode_payload(entry.payload, "events", name).get("events")
        return batch if batch is not None and batch.num_rows else None

    def _read_again(self, step: Step) -> list[pa.RecordBatch]:
        found = []
        for partition, (first, end) in step.taken.items():
            for entry in self._entries(partition, first, end):
                if (batch := self._events_of(partition, entry)) is not None:
                    found.append(batch)
        return found

    def _entries(self, partition: str, first: int, end: int) -> Iterator[Entry]:
        """Entries of a step, from where the reading of the one before it ended: to begin one takes a broker three answers."""
        while first < end:
            at, reading = self._reading.pop(partition, (-1, iter(())))
            is_new = at != first
            if is_new:
                reading = self.log.read(partition, first)
            before = first
            for entry in reading:
                if entry.offset >= end:
                    self._reading[partition] = (end, itertools.chain([entry], reading))
                    return
                first = entry.offset + 1
                yield entry
                if first == end:
                    self._reading[partition] = (end, reading)
                    return
            if first == before and is_new:
                why = "the log was cut or another one is in its place"
                raise InputError(f"the log partition `{partition}` ends before {end:,}, which was learned", why=why)


class RecentIds:
    """Which event ids came lately: a device that heard no answer sends again, and the log takes what it is told.

    Two collections of hashes (64 bits, salted by the process); `turn`, due when the newer is full, forgets the older and begins
    a new one: between `size` and twice as many are known. Each is runs of sorted hashes, a run at least twice as long as the
    next: 8 bytes an id, where sets take 80.
    """

    def __init__(self, size: int = 500_000) -> None:
        self._size = size
        self._new: list[np.ndarray] = []
        self._old: list[np.ndarray] = []

    @property
    def is_full(self) -> bool:
        """Whether it is time to `turn`, which is left to the caller, who may want to know where that was."""
        return sum(map(len, self._new)) >= self._size

    def turn(self) -> None:
        """Forget the older collection, and begin a new one."""
        self._old, self._new = self._new, []

    def is_new(self, batches: list[pa.RecordBatch]) -> list[np.ndarray]:
        """For each batch, which rows have an id that did not come before, in these batches or earlier."""
        keys, first, num = _keys_of(batches)
        fresh = np.ones(len(keys), dtype=bool)
        for run in (*self._new, *self._old):
            place = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            fresh &= run[place] != keys
        mask = np.zeros(num, dtype=bool)
        mask[first[fresh]] = True
        self._add(keys[fresh])
        return np.split(mask, np.cumsum([batch.num_rows for batch in batches])[:-1]) if batches else []

    def _add(self, keys: np.ndarray) -> None:
        if not len(keys):
            return
        while self._new and len(self._new[-1]) < 2 * len(keys):
            keys = np.sort(np.concatenate([self._new.pop(), keys]), kind="stable")
        self._new.append(keys)


def _keys_of(batches: list[pa.RecordBatch]) -> tuple[np.ndarray, np.ndarray, int]:
    """Hashes of the ids, ascending and once each; the row where each stands first; how many rows there are."""
    names = [name for batch in batches for name in batch.column("event_id").to_pylist()]
    keys, first = np.unique(np.array([hash(name) for name in names], np.int64), return_index=True)
    return keys, first, len(names)


def _newest_us(batch: pa.RecordBatch) -> int:
    return int(batch.column("ingest_time").cast(pa.int64()).to_numpy().max())
