"""HTTP → log: `POST /v1/events`. A 200 means that the batch is on the disk; what it says of each event is final.

Requests that arrive while the thread is busy become one batch: it takes all that wait, checks them, asks which ids are known,
appends once and answers all. So the more devices send at once, the less each costs, without a timer; the next batch is checked
while the disk flushes the last. Of 64 bodies of 100 events each event takes the thread 0.9 µs: 0.5 to read, 0.2 to look for
known ids, 0.2 to encode and hand to the log; what does not depend on the size of a batch takes 0.55 ms.

What cannot be stored soon is refused before it is read: 429 with `retry-after` when too many wait, the lake lags or the disk
runs full.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import queue
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from gyral.config.sections import Collect
from gyral.errors import GyralError
from gyral.event.clock import DAY_US, now_us
from gyral.event.codec import encode_payload
from gyral.event.scan import Part
from gyral.event.schema import QUARANTINE
from gyral.event.wire import bad_rows
from gyral.http import Receive, Refused, Scope, Send, allow, header, read_body, reply, routed
from gyral.ingest.bodies import Body, Limits, not_now, take
from gyral.ingest.dedup import Run, Runs, hashed, repeated
from gyral.ingest.keys import Keys, Spender
from gyral.lake.table import Lake
from gyral.log.base import EventLog

PATH = "/v1/events"
GROUP_REQUESTS = 256
GROUP_BYTES = 16 << 20
GROWTH = 8
"""How many times larger a compressed body is taken to get when requests are put together."""
GROUP_DECODED_BYTES = 128 << 20
"""The same after decompression, in which small bodies may grow a thousand times: beyond it requests get 429."""
LOOK_EVERY_S = 1.0
"""How often disk and lag are looked at."""

FLYING = 2
"""Batches that the disk may have at once."""

Known = Callable[[Run], np.ndarray]
Answer = dict[str, Any] | Exception


class _Request(NamedTuple):
    body: Body
    key: Spender | None
    batch: bytes
    answer: asyncio.Future[dict[str, Any]]

    @property
    def sender(self) -> str:
        return self.key.name if self.key is not None else "http"


class _Batch(NamedTuple):
    """Requests on their way to the disk, and what they are answered if it takes them."""

    group: list[_Request]
    answers: list[Answer]
    run: Run | None
    stored: Future[int] | None


class Collector:
    """The application of one process that takes events, and the thread behind it.

    Parameters
    ----------
    lake, log : the log that the events go to, and the lake it is of; a drain commits them.
    known : tells which hashed ids the lake has; None to count as duplicates only what this process took.
    dedup_days : days with events that ids are held for which the lake is not known to have, as in `Drain`; 0: always.
    note : told of what an operator should know.

    Raises
    ------
    LakeError : the log is older than the lake.
    """

    path = PATH

    def __init__(
        self, lake: Lake, log: EventLog, config: Collect, known: Known | None, note: Callable[[str], None], dedup_days: int = 0
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.cpu_s = 0.0
        """What its thread has taken: to read, check and hand to the log; a request's bytes come in beside it."""
        self._lake, self._log, self._config, self._known, self._note = lake, log, config, known, note
        self._keys = Keys(config.keys, config.keys_file, note)
        lake.check(log)
        self.partition = ""
        """Taken with the first batch: most servers are never sent an event."""
        room = log.largest_bytes // 2  # a group has one body more than fits, and columns take no more bytes than JSON does
        self._group_bytes, self._together_bytes = min(GROUP_BYTES, room), min(GROUP_DECODED_BYTES, room)
        self._max_decoded_bytes = min(config.max_decoded_bytes, room)
        self._recent = _Recent(dedup_days)
        self._in_lake = 0
        """Offset below which the lake has everything of the partition."""
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._busy: tuple[str, int] | None = None
        self._look_at = 0.0
        self._look()
        self._thread = threading.Thread(target=self._work, name="collector", daemon=True)
        self._thread.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = await routed(self._route, scope, receive, send)
        if refused is not None:
            self.counts[f"refused:{refused.status}"] += 1

    async def _route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path != PATH:
            raise Refused(404, f"there is nothing at `{path[:200]}`", hint=f"POST {PATH}, GET /healthz")
        allow(scope, "POST")
        await reply(send, 200, msgspec.json.encode(await self._collect(scope, receive)))

    def totals(self) -> dict[str, int]:
        """Events accepted, known before and quarantined, of all requests that got a 200."""
        return {name: self.counts[name] for name in ("accepted", "duplicate", "quarantined")}

    def settled(self, offsets: Mapping[str, int]) -> None:
        """Told by a drain how far the lake is: what it has, it is asked about."""
        self._in_lake = offsets.get(self.partition, 0)
        self._recent.forget(self._in_lake)

    def close(self) -> None:
        """Store what waits; may be called twice. The log stays open."""
        self._waiting.put(None)
        self._thread.join()

    async def _collect(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        key = self._keys.check(header(scope, b"authorization"))
        self._admit()
        body = await read_body(scope, receive, self._config.max_body_bytes)
        if key is not None:
            key.spend(len(body), 0)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        media, encoding = header(scope, b"content-type"), header(scope, b"content-encoding")
        batch = header(scope, b"idempotency-key")
        self._waiting_bytes += len(body)
        try:
            self._waiting.put(_Request(Body(body, media, encoding), key, batch, answer))
            told = await answer
        finally:
            self._waiting_bytes -= len(body)
        if key is not None:
            key.spend(0, told["accepted"] + told["duplicate"])
        return told

    def _admit(self) -> None:
        config = self._config
        if self._busy is not None:
            raise not_now(*self._busy)
        if self._waiting.qsize() >= config.max_waiting or self._waiting_bytes >= config.max_waiting_bytes:
            raise not_now("too many requests wait to be stored", 1)

    def _look(self) -> None:
        """See whether there is room: refused now is better than acknowledged never."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        busy: tuple[str, int] | None = None
        with contextlib.suppress(OSError, GyralError):
            lag = self._lag_bytes() if self.partition else 0
            free = shutil.disk_usage(self._lake.folder).free
            if lag > self._config.max_lag_bytes:
                busy = (f"{lag:,} bytes of the log wait for the lake", 10)
            elif free < self._config.min_free_bytes:
                busy = (f"the disk has only {free:,} bytes left", 60)
        if busy is not None and self._busy is None:
            self._note(f"collect  requests are refused with 429: {busy[0]}")
        self._busy = busy

    def _lag_bytes(self) -> int:
        """The part of the log that the lake does not have; the rest only waits to be trimmed."""
        size = self._log.size_bytes(self.partition)
        if not size:  # nothing, or a broker's, which would be asked each second, and waited for where it is away
            return 0
        start, end = self._log.start(self.partition), self._log.end(self.partition)
        waiting = end - max(self._in_lake, start)
        return size * waiting // max(end - start, 1)

    def _work(self) -> None:
        flying: deque[_Batch] = deque()
        while True:
            group, is_last = self._next_group(wait=not flying)
            self._look()
            if group:
                flying.append(self._send(group, [batch.run for batch in flying if batch.run is not None]))
            while flying and (len(flying) >= FLYING or not group or is_last):
                self._finish(flying.popleft())
            self.cpu_s = time.thread_time()
            if is_last:
                return

    def _next_group(self, wait: bool) -> tuple[list[_Request], bool]:
        """All requests that wait, up to the limits of a group, and whether they are the last."""
        group: list[_Request] = []
        size = 0
        with contextlib.suppress(queue.Empty):
            request = self._waiting.get(timeout=LOOK_EVERY_S) if wait else self._waiting.get_nowait()
            while request is not None:
                group.append(request)
                size += len(request.body.data) * (GROWTH if request.body.encoding else 1)
                if len(group) == GROUP_REQUESTS or size >= self._group_bytes:
                    return group, False
                request = self._waiting.get_nowait()
            return group, True
        return group, False

    def _send(self, group: list[_Request], flying: list[Run]) -> _Batch:
        """Check a group and hand it to the log."""
        now = now_us()
        answers: list[Answer] = []
        run = stored = None
        try:
            limits = Limits(self._max_decoded_bytes, self._config.max_events, self._together_bytes)
            events, parts = _allowed(group, limits, now)
            run = hashed(events["event_id"])
            num_known = [0, *np.cumsum(self._is_known(run, flying)).tolist()]
            answers = [part if isinstance(part, Refused) else _counts(part, num_known) for part in parts]
            bad = [row for request, part in zip(group, parts, strict=True) for row in _bad_rows(request, part, now)]
            if count := events.num_rows + len(bad):
                self.partition = self.partition or self._log.free_partition("events")
                payload = encode_payload(events, pa.RecordBatch.from_pylist(bad, schema=QUARANTINE) if bad else None)
                stored = self._log.submit(self.partition, os.urandom(16).hex(), payload, count)
        except Exception as error:
            refusal = self._refusal(error)
            answers = [answer if isinstance(answer, Refused) else refusal for answer in answers or [refusal] * len(group)]
        return _Batch(group, answers, run, stored)

    def _is_known(self, run: Run, flying: list[Run]) -> np.ndarray:
        known: np.ndarray = self._recent.has(run) | repeated(run)
        for other in flying:
            known |= Runs([other]).has(run)
        if self._known is not None:
            known |= self._known(run)
        return known

    def _finish(self, batch: _Batch) -> None:
        """Wait for the disk and answer."""
        answers = batch.answers
        try:
            if batch.stored is not None and batch.run is not None:
                self._recent.add(batch.run, batch.stored.result())
            for answer in answers:
                if isinstance(answer, dict):
                    self.counts["accepted"] += answer["accepted"]
                    self.counts["duplicate"] += answer["duplicate"]
                    self.counts["quarantined"] += sum(answer["quarantined"].values())
        except Exception as error:
            refusal = self._refusal(error)
            answers = [refusal if isinstance(answer, dict) else answer for answer in answers]
        self._answer(batch.group, answers)

    def _refusal(self, error: Exception) -> Refused:
        """Nothing was acknowledged, so the client sends it again."""
        self._note(f"collect  a batch could not be stored: {error}")
        why = error.what if isinstance(error, GyralError) else f"{type(error).__name__}: {error}"
        hint, retry = "send it again", ((b"retry-after", b"5"),)
        return Refused(503, "the batch could not be stored", why=why, hint=hint, headers=retry)

    def _answer(self, group: list[_Request], answers: list[Answer]) -> None:
        def resolve() -> None:
            for request, answer in zip(group, answers, strict=True):
                if not request.answer.done():  # the client may have gone
                    if isinstance(answer, Exception):
                        request.answer.set_exception(answer)
                    else:
                        request.answer.set_result(answer)

        with contextlib.suppress(RuntimeError):  # the server has stopped; nobody waits any more
            group[0].answer.get_loop().call_soon_threadsafe(resolve)


class _Recent:
    """Ids of what was appended and is not known to be in the lake yet, in generations by day and offset.

    Where nobody says what the lake has, as while a learner reads the log, only `days` bounds them: 18 bytes an id.
    """

    def __init__(self, days: int = 0) -> None:
        self._days = days
        self._lock = threading.Lock()
        self._today = now_us() // DAY_US
        self._generations: list[tuple[Runs, int, int]] = [(Runs(), 0, self._today)]

    def add(self, run: Run, offset: int) -> None:
        with self._lock:
            if self._days and (today := now_us() // DAY_US) != self._today:
                self._today = today
                self._generations.append((Runs(), 0, today))
                kept = list(dict.fromkeys(day for *_, day in reversed(self._generations)))[: self._days + 1]
                self._generations = [each for each in self._generations if each[2] in kept]
            runs, _, day = self._generations[-1]
            runs.add(run)
            self._generations[-1] = (runs, offset + 1, day)

    def has(self, run: Run) -> np.ndarray:
        found = np.zeros(len(run.first), dtype=bool)
        with self._lock:
            for runs, *_ in self._generations:
                found |= runs.has(run)
        return found

    def forget(self, below: int) -> None:
        """Let go of generations whose batches are all below an offset, and begin a new one."""
        with self._lock:
            left = [each for each in self._generations if each[1] > below]
            if not left or (len(left) < 3 + self._days and len(left[-1][0])):
                left.append((Runs(), 0, self._today))
            self._generations = left


def _allowed(group: list[_Request], limits: Limits, now: int) -> tuple[pa.RecordBatch, list[Part | Refused]]:
    """The events of a group and what came of each request, which is refused whole where its key may not send all its kinds."""
    events, parts = take([request.body for request in group], limits, now)
    refused: dict[int, Refused] = {}
    for number, (request, part) in enumerate(zip(group, parts, strict=True)):
        if request.key is not None and request.key.key.kinds and not isinstance(part, Refused):
            kinds = events["kind"].slice(part.rows.start, part.rows.stop - part.rows.start).unique().to_pylist()
            if (refusal := request.key.refusal(kinds)) is not None:
                refused[number] = refusal
    if refused:
        left = [request.body for number, request in enumerate(group) if number not in refused]
        events, taken = take(left, limits, now)
        others = iter(taken)
        parts = [refused.get(number) or next(others) for number in range(len(group))]
    return events, parts


def _counts(part: Part, num_known: list[int]) -> dict[str, Any]:
    """What a request is answered; `num_known` are known of the events before each place."""
    first, end = part.rows.start, part.rows.stop
    duplicate = num_known[end] - num_known[first]
    reasons = dict(Counter(row.reason for row in part.bad)) if part.bad else {}
    return {"accepted": end - first - duplicate, "duplicate": duplicate, "quarantined": reasons}


def _bad_rows(request: _Request, part: Part | Refused, now: int) -> list[dict[str, Any]]:
    return [] if isinstance(part, Refused) or not part.bad else bad_rows(part.bad, _digest(request), request.sender, now)


def _digest(request: _Request) -> hashlib.blake2b:
    """Of a batch as its client names it, else of its bytes."""
    return hashlib.blake2b(request.batch or request.body.data, digest_size=16, key=request.sender.encode()[:64])
