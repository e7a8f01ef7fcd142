"""The people of a source, as they would have been: each visit at its time on a faster clock, asked for before it is told.

A visit is what one subject did at one time. Before it is sent to the collector, the server is asked what it would show this
subject: by the model that learns, by the copy frozen when a fifth of the events was learned, by that copy with what the subject
met since sent along, and by popularity. What was then taken decides (`prequential`: foretold, then learned). Visits of one
subject come one after the other, all others at once, as many as there are connections. A population that cannot keep its clock
says by how much it is behind (`lag_s`): its visits come late, never in another order for one subject.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from gyral.errors import ServeError
from gyral.model.evaluate import score
from gyral.serve.client import RECOMMEND, Connection

K = 10
SLOTS = ("looped", "frozen", "frozen_recent", "popularity")
RECENT = 256
PROBE_S = 10.0
PROBE_EVERY_S = 0.02
RETRY_S = 0.5
SEND_TIMEOUT_S = 60.0


class Coming(NamedTuple):
    """One visit: rows [first, end) of the events, and what of it counts as taken (names, each once)."""

    at_us: int
    subject: str
    country: str | None
    first: int
    end: int
    taken: list[str]
    is_asked: bool


class Scores:
    """What was foretold, against what was taken."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[list[list[str]], list[list[str]]]] = {slot: ([], []) for slot in SLOTS}
        self.values: dict[str, dict[str, list[np.ndarray]]] = {slot: {} for slot in SLOTS}

    def add(self, slot: str, answer: list[str], taken: list[str]) -> None:
        """One answer."""
        answers, truth = self._waiting[slot]
        answers.append(answer)
        truth.append(taken)

    def settle(self) -> dict[str, dict[str, float | None]]:
        """Score what was added since the last time: metric → slot → mean of it, None where nobody was asked."""
        fresh: dict[str, dict[str, float | None]] = {}
        for slot, (answers, truth) in self._waiting.items():
            values = score(answers, truth, K) if answers else {}
            for metric in (f"recall_at_{K}", f"ndcg_at_{K}"):
                part = values.get(metric)
                fresh.setdefault(metric, {})[slot] = None if part is None else float(part.mean())
                if part is not None:
                    self.values[slot].setdefault(metric, []).append(part)
            self._waiting[slot] = ([], [])
        return fresh

    def mean(self, metric: str) -> dict[str, float | None]:
        """Over everything that was asked."""
        found: dict[str, float | None] = {}
        for slot, values in self.values.items():
            parts = values.get(metric)
            found[slot] = round(float(np.concatenate(parts).mean()), 4) if parts else None
        return found

    def count(self) -> int:
        """Visits that the looped model was asked about."""
        return sum(len(part) for part in self.values["looped"].get(f"recall_at_{K}", []))


class Population:
    """Everybody of a source.

    Parameters
    ----------
    events : of subjects, in order of time, groups of (subject, time) together; without `ingest_time`.
    speed : event time over time.
    users : connections.
    headers : of what is sent and asked.
    admit_count : meetings that let an object in; who took only others is nobody that an answer could know.
    """

    def __init__(
        self, url: str, events: pa.Table, visits: Sequence[Coming], speed: float, users: int = 16, headers: Sequence[str] = (),
        admit_count: int = 1,
    ) -> None:  # fmt: skip
        self._url, self._events, self._visits = url, events, visits
        self._speed, self._users, self._headers = speed, users, headers
        self.scores = Scores()
        self.sent = 0
        self.lag_s = 0.0
        self.worst_lag_s = 0.0
        self.latencies: deque[float] = deque(maxlen=4_000)
        self.cold_s: list[float] = []
        """Seconds from a new subject's first acknowledged visit until an answer knows them."""
        self.cold_missed = 0
        self.asks_frozen = False
        """Set once the frozen copy answers: from then on everybody is asked about."""
        self.now_us = visits[0].at_us if visits else 0
        self._since_frozen: dict[str, list[str]] = {}
        self._last: dict[str, asyncio.Event] = {}
        self._seen: set[str] = set()
        self._met: Counter[str] = Counter()
        self._admit_count = admit_count
        self._probing = False
        self._queue: asyncio.Queue[tuple[Coming, float, asyncio.Event | None, asyncio.Event] | None] = asyncio.Queue()
        self._probes: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until everybody came.

        Raises
        ------
        ServeError : the server went away, or refused something.
        """
        workers = [asyncio.ensure_future(self._work()) for _ in range(self._users)]
        clock = asyncio.ensure_future(self._clock())
        try:
            await asyncio.gather(clock, *workers)
            if self._probes:
                await asyncio.wait(self._probes, timeout=PROBE_S)
        finally:
            for task in (clock, *workers, *self._probes):
                task.cancel()
            await asyncio.gather(clock, *workers, *self._probes, return_exceptions=True)

    async def _clock(self) -> None:
        begun, first_us = time.monotonic(), self._visits[0].at_us if self._visits else 0
        for visit in self._visits:
            due = begun + (visit.at_us - first_us) / 1e6 / self._speed
            wait = due - time.monotonic()
            if wait > 0.001:
                await asyncio.sleep(wait)
            self.now_us = visit.at_us
            done = asyncio.Event()
            self._queue.put_nowait((visit, due, self._last.get(visit.subject), done))
            self._last[visit.subject] = done
        for _ in range(self._users):
            self._queue.put_nowait(None)

    async def _work(self) -> None:
        connection = Connection(self._url)
        try:
            while (item := await self._queue.get()) is not None:
                visit, due, before, done = item
                if before is not None:
                    await before.wait()
                self.lag_s = time.monotonic() - due
                self.worst_lag_s = max(self.worst_lag_s, self.lag_s)
                if visit.taken and visit.is_asked and self.asks_frozen:
                    await self._ask(connection, visit)
                await self._send(connection, visit)
                done.set()
                if self._last.get(visit.subject) is done:
                    del self._last[visit.subject]
        finally:
            await connection.close()

    async def _ask(self, connection: Connection, visit: Coming) -> None:
        for slot in SLOTS:
            context: dict[str, Any] = {} if visit.country is None else {"country": visit.country}
            if slot == "frozen_recent" and (recent := self._since_frozen.get(visit.subject)):
                context["recent"] = recent[-RECENT:]
            request: dict[str, Any] = {"subject": visit.subject, "k": K, "context": context}
            if slot != "looped":
                request["model"] = "frozen" if slot == "frozen_recent" else slot
            begun = time.perf_counter()
            answer = await self._answer(connection, request)
            self.latencies.append(time.perf_counter() - begun)
            self.scores.add(slot, [item["object"] for item in answer["items"]], visit.taken)

    async def _answer(self, connection: Connection, request: dict[str, Any]) -> Any:
        answer = await connection.post(RECOMMEND, msgspec.json.encode(request), *self._headers)
        if answer.status != 200:
            raise ServeError(f"a request was answered {answer.status}", why=answer.body[:500].decode("utf-8", "replace"))
        return answer.json()

    async def _send(self, connection: Connection, visit: Coming) -> None:
        rows = visit.end - visit.first
        body = _stream(self._events.slice(visit.first, rows))
        until = time.monotonic() + SEND_TIMEOUT_S
        media = "application/vnd.apache.arrow.stream"
        while (answer := await connection.post("/v1/events", body, *self._headers, media=media)).status != 200:
            if answer.status not in (429, 503) or time.monotonic() > until:
                raise ServeError("the server stored no events", why=answer.body[:500].decode("utf-8", "replace"))
            await asyncio.sleep(max(answer.retry_s, RETRY_S))
        self.sent += rows
        is_new = visit.subject not in self._seen
        if visit.taken:
            self._seen.add(visit.subject)
            if self.asks_frozen:
                self._since_frozen.setdefault(visit.subject, []).extend(visit.taken)
            self._met.update(visit.taken)
            can_be_known = any(self._met[each] >= self._admit_count for each in visit.taken)
            if is_new and can_be_known and self.asks_frozen and not self._probing:
                task = asyncio.ensure_future(self._probe(visit.subject))
                self._probes.add(task)
                task.add_done_callback(self._probes.discard)

    async def _probe(self, subject: str) -> None:
        """Ask for somebody new until the answer is theirs."""
        self._probing = True
        begun = time.monotonic()
        connection = Connection(self._url)
        try:
            while time.monotonic() - begun < PROBE_S:
                if (await self._answer(connection, {"subject": subject, "k": K}))["known"]:
                    self.cold_s.append(time.monotonic() - begun)
                    return
                await asyncio.sleep(PROBE_EVERY_S)
            self.cold_missed += 1
        finally:
            self._probing = False
            await connection.close()


def visits_of(events: pa.Table, taken: dict[int, list[str]], share: float, seed: int) -> list[Coming]:
    """Visits of events that are in order.

    Parameters
    ----------
    taken : first row of a visit → what counts as taken.
    share : of visits that are asked about.
    """
    firsts = starts_of(events)
    ends = np.append(firsts[1:], events.num_rows)
    times = events["event_time"].cast(pa.int64()).to_numpy()[firsts]
    subjects, countries = (events[name].take(pa.array(firsts)).to_pylist() for name in ("subject", "country"))
    asked = np.random.default_rng(seed).random(len(firsts)) < share
    return [
        Coming(int(at), subject, country, int(first), int(end), taken.get(int(first), []), bool(is_asked))
        for at, subject, country, first, end, is_asked in zip(times, subjects, countries, firsts, ends, asked, strict=True)
    ]


def starts_of(events: pa.Table) -> np.ndarray:
    """Rows at which a visit begins: the subject or the time is another than in the row before."""
    if not events.num_rows:
        return np.zeros(0, np.int64)
    times = events["event_time"].cast(pa.int64()).to_numpy()
    who = events["subject"].combine_chunks().dictionary_encode().indices.to_numpy()
    return np.flatnonzero(np.r_[True, (times[1:] != times[:-1]) | (who[1:] != who[:-1])])


def _stream(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()
