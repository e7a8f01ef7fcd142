"""Every answer becomes an `impression` event in the log, off the request's path.

A request only puts a tuple on a queue (about 1 µs); one thread encodes and appends groups of up to 1,000 or 50 ms. The queue is
bounded: when the disk stands still, impressions are dropped and counted, answers are not.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa

from gyral.errors import GyralError
from gyral.event.clock import now_us
from gyral.event.codec import encode_payload
from gyral.event.schema import EVENT
from gyral.log.sqlite import SqliteLog

GROUP_ROWS = 1_000
GROUP_S = 0.05
MAX_WAITING = 100_000


class Impression(NamedTuple):
    """One answer: its request id, when (µs), whom, by which model in which slot, and what was shown."""

    request_id: str
    time_us: int
    subject: str
    model: str
    slot: str
    k: int
    objects: Sequence[str]


class RequestIds:
    """Unique, time-ordered ids in the form of UUIDv7: 48 bits of milliseconds, 16 of count, 64 of this process."""

    def __init__(self) -> None:
        self._process = os.urandom(8).hex()
        self._count = itertools.count()

    def next(self) -> str:
        """A new id; 32 hex digits in five groups."""
        time_ms = time.time_ns() // 1_000_000
        head = f"{time_ms:012x}"
        return f"{head[:8]}-{head[8:]}-{next(self._count) & 0xFFFF:04x}-{self._process[:4]}-{self._process[4:]}"


class Impressions:
    """Appends impressions to the log of a lake in the background.

    Parameters
    ----------
    folder : the log's folder; the partition is the first free `serve-N`.
    note : told once when the log refuses.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.appended = 0
        self.dropped = 0
        self._note = note
        self._log = SqliteLog(folder)
        self._partition = self._log.free_partition("serve")
        self._queue: queue.Queue[Impression | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="impressions", daemon=True)
        self._thread.start()

    def add(self, impression: Impression) -> None:
        """Queue one impression; never blocks."""
        try:
            self._queue.put_nowait(impression)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Append what is queued and release the partition."""
        self._queue.put(None)
        self._thread.join()
        self._log.close()

    def _work(self) -> None:
        is_open = True
        while is_open:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            end = time.monotonic() + GROUP_S
            while len(group) < GROUP_ROWS:
                try:
                    following = self._queue.get(timeout=max(end - time.monotonic(), 0))
                except queue.Empty:
                    break
                if following is None:
                    is_open = False
                    break
                group.append(following)
            self._append(group)

    def _append(self, group: list[Impression]) -> None:
        try:
            self._log.append(self._partition, group[0].request_id, encode_payload(_to_events(group)), len(group))
            self.appended += len(group)
        except GyralError as error:
            if self.dropped == 0:
                self._note(f"serve    impressions are lost: {error}")
            self.dropped += len(group)


def _to_events(group: list[Impression]) -> pa.RecordBatch:
    count, now = len(group), now_us()
    columns: dict[str, pa.Array] = {
        "event_id": pa.array([each.request_id for each in group]),
        "event_time": pa.array([each.time_us for each in group]),
        "ingest_time": pa.repeat(now, count),
        "kind": pa.repeat("impression", count),
        "subject": pa.array([each.subject for each in group]),
        "object": pa.array([each.objects[0] if each.objects else None for each in group], pa.string()),
        "schema_id": pa.repeat("impression", count),
        "props": pa.array([msgspec.json.encode(_props(each)).decode() for each in group]),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)).cast(field.type) for field in EVENT]
    return pa.RecordBatch.from_arrays(arrays, schema=EVENT)


def _props(each: Impression) -> dict[str, object]:
    return {"model": each.model, "slot": each.slot, "k": each.k, "items": list(each.objects)}
