"""Every answer becomes an `impression` event in the log, off the request's path.

A request only appends a tuple to a deque (0.1 µs); one thread looks every 50 ms and appends groups of up to 1,000. The deque is
bounded: when the disk stands still, impressions are dropped and counted, answers are not.

Tried and rejected: `queue.Queue`, whose every `put` wakes the thread, which then takes the interpreter from the next
request: 174 against 135 µs of CPU a request, 3,800 against 5,600 requests/s on one connection (2 shared cores, medians of 3).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa

from gyral.event.clock import now_us
from gyral.event.codec import encode_payload
from gyral.event.schema import EVENT
from gyral.log.base import EventLog
from gyral.log.sqlite import SqliteLog

if TYPE_CHECKING:
    from gyral.lake.table import Lake

GROUP_ROWS = 1_000
GROUP_S = 0.05
MAX_WAITING = 100_000
TRIM_EVERY_S = 60.0


class Impression(NamedTuple):
    """One answer: its request id, when (µs), whom, by which model in which slot, what was shown and how it scored."""

    request_id: str
    time_us: int
    subject: str
    country: str | None
    model: str
    slot: str
    k: int
    objects: Sequence[str]
    scores: Sequence[float]
    num_recent: int = 0
    more: Mapping[str, Any] = MappingProxyType({})

    def logged(self) -> Logged:
        """As it goes into the log."""
        scores = [round(score, 6) for score in self.scores]
        props = {"model": self.model, "slot": self.slot, "k": self.k, "items": list(self.objects), "scores": scores}
        if self.num_recent:
            props["num_recent"] = self.num_recent
        props.update(self.more)
        first = self.objects[0] if self.objects else None
        return Logged(self.request_id, self.time_us, "impression", self.subject, first, self.country, props)


class Logged(NamedTuple):
    """One answer of any kind, as the event that it becomes."""

    request_id: str
    time_us: int
    kind: str
    subject: str | None
    object: str | None
    country: str | None
    props: dict[str, Any]

    def logged(self) -> Logged:
        """Itself."""
        return self


class RequestIds:
    """Unique, time-ordered ids in the form of UUIDv7: 48 bits of milliseconds, 26 of count, 48 of this process.

    **Source**: RFC 9562, section 5.7; the count is its section 6.2, method 1.
    """

    def __init__(self) -> None:
        self._process = os.urandom(6).hex()
        self._count = itertools.count()

    def next(self) -> str:
        """A new id; 32 hex digits in five groups."""
        head = f"{time.time_ns() // 1_000_000:012x}"
        count = next(self._count)
        high, low = 0x7000 | (count >> 14 & 0xFFF), 0x8000 | (count & 0x3FFF)
        return f"{head[:8]}-{head[8:]}-{high:04x}-{low:04x}-{self._process}"


class Impressions:
    """Appends impressions to the log of a lake in the background, and forgets there what the lake has.

    Parameters
    ----------
    lake : the lake whose log it is; a drain of another process commits it.
    note : told once when the log refuses.
    log : where they go, closed by `close`; None: the log in the lake's folder.

    Raises
    ------
    LakeError : the log is older than the lake.
    """

    def __init__(self, lake: Lake, note: Callable[[str], None], log: EventLog | None = None) -> None:
        self.appended = 0
        self.dropped = 0
        self._note = note
        self._lake = lake
        self._log = SqliteLog(lake.log_folder) if log is None else log
        lake.check(self._log)
        self._partition = self._log.free_partition("serve")
        self._trim_at = time.monotonic() + TRIM_EVERY_S
        self._waiting: deque[Impression | Logged] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="impressions", daemon=True)
        self._thread.start()

    def add(self, impression: Impression | Logged) -> None:
        """Queue one answer; never blocks."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(impression)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Append what waits and release the partition; may be called twice."""
        self._closing.set()
        self._thread.join()
        self._log.close()

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.wait(GROUP_S)
            if time.monotonic() >= self._trim_at:
                self._trim()
            waiting = len(self._waiting)
            # What comes meanwhile waits for the next time, or groups of a few would be written all along.
            while waiting > 0:
                group = [self._waiting.popleft() for _ in range(min(waiting, GROUP_ROWS))]
                waiting -= len(group)
                self._append(group)

    def _append(self, group: list[Impression | Logged]) -> None:
        try:
            self._log.append(self._partition, group[0].request_id, encode_payload(_to_events(group)), len(group))
            self.appended += len(group)
        except Exception as error:  # whatever the disk or a family's answer did, the thread lives on
            if self.dropped == 0:
                self._note(f"serve    impressions are lost: {error}")
            self.dropped += len(group)

    def _trim(self) -> None:
        """Only the writer of a partition can, and this one writes for as long as it serves."""
        self._trim_at = time.monotonic() + TRIM_EVERY_S
        with contextlib.suppress(Exception):  # next time, then: the thread lives on
            self._log.trim(self._partition, self._lake.settled().get(self._partition, 0))


def _to_events(group: Sequence[Impression | Logged]) -> pa.RecordBatch:
    rows = [each.logged() for each in group]
    count, kinds = len(rows), [each.kind for each in rows]
    columns: dict[str, pa.Array] = {
        "event_id": pa.array([each.request_id for each in rows]),
        "event_time": pa.array([each.time_us for each in rows]),
        "ingest_time": pa.repeat(now_us(), count),
        "kind": pa.array(kinds),
        "subject": pa.array([each.subject for each in rows], pa.string()),
        "object": pa.array([each.object for each in rows], pa.string()),
        "country": pa.array([each.country for each in rows], pa.string()),
        "schema_id": pa.array(kinds),
        "props": pa.array([msgspec.json.encode(each.props).decode() for each in rows]),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)).cast(field.type) for field in EVENT]
    return pa.RecordBatch.from_arrays(arrays, schema=EVENT)
