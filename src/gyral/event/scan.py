"""Bodies of JSON → columns: a kernel reads the common shape of events straight into Arrow buffers, `wire` reads the rest.

An event that is JSON but not what the kernel knows is *odd*: its range of bytes is told, and msgspec looks at it. A body that
is anything else is odd as a whole. So the kernel never refuses, what is bad and why is decided in one place, and what it takes
becomes what `wire` would have made of it. Of events of 300 bytes in bodies of 100 each takes 0.5 µs (0.35 to find, 0.1 to copy)
against 1.5 by msgspec and Python lists; an odd one costs about 5. Bodies are read together: of one alone it is 1.0.

The kernel needs numba. Once a process has read a megabyte, another one compiles it into numba's cache if it is not there (7 s),
and a thread loads it from there (0.4 s); until then, and without numba, msgspec reads everything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from gyral.event.clock import TIMESTAMP
from gyral.event.schema import EVENT, MAX_NAME_CHARS
from gyral.event.wire import Bad, Malformed, WireEvent, check_event, check_json, to_columns

KEYS = [field.name for field in EVENT if field.name not in ("event_time", "ingest_time")] + ["event_time"]
LOAD_AFTER_BYTES = 1 << 20
_MAX_BYTES = 1 << 31  # places are int32
_SMALLEST_EVENT = 48
"""Bytes; the least that a good event takes is 54. A body of many smaller ones is odd."""
_PAD = bytes(24)
"""Behind the bodies: the kernel looks ahead this far at most."""


class TooMany(ValueError):
    """A body of more events than are taken at once."""


class Part(NamedTuple):
    """What is in one of several bodies: the rows of its events, and what is bad."""

    rows: slice
    bad: list[Bad]


class Read(NamedTuple):
    """What is in several bodies: columns of the good events in the order of the bodies, and the part of each body."""

    events: pa.RecordBatch
    parts: list[Part | Malformed | TooMany]


class Scanned(NamedTuple):
    """What the kernel saw in B bodies: N rows of K values, which are those of `KEYS`.

    Attributes
    ----------
    data : the bodies with zeros between and behind them, uint8.
    bounds : where each body begins in it, and the end, int64 [B + 1].
    counts : rows of each body, -1 for an odd one, int64 [B].
    begins, ends : where each row is, int64 [N].
    is_odd : whether it is left to msgspec, bool [N].
    micros : event times since the epoch in microseconds, int64 [N].
    starts, lengths : where each value is and its bytes, -1 for null, int32 [N, K]; texts are without their quotes.
    """

    data: np.ndarray
    bounds: np.ndarray
    counts: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    is_odd: np.ndarray
    micros: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


class Kernels(NamedTuple):
    """Functions that numba has compiled."""

    find: Callable[[np.ndarray, int, Scanned], int]
    times: Callable[[Scanned], None]
    copy: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


class _Rest(NamedTuple):
    """What msgspec read: events, where in the data each or its body begins, and what is bad of each body, or all of it."""

    events: list[WireEvent]
    places: list[int]
    bad: list[list[Bad] | Malformed | TooMany]


def read(bodies: Sequence[bytes], ingest_us: int, max_events: int = _MAX_BYTES) -> Read:
    """Read bodies that came in at one moment, each a JSON array of events or lines of one event each.

    Parameters
    ----------
    max_events : that a body may hold, bad ones too.
    """
    bodies = [body.strip() for body in bodies]
    kernels = LOADED.get(sum(map(len, bodies)))
    scanned = _scan(bodies, max_events, kernels)
    rest = _Rest([], [], [[] for _ in bodies])
    _read_odd_bodies(bodies, scanned, max_events, rest)
    _read_odd_events(scanned, rest)
    begins = np.concatenate([scanned.begins[~scanned.is_odd], np.array(rest.places, np.int64)])
    events = _columns(scanned, ingest_us, kernels)
    if rest.events:
        odd = to_columns(rest.events, ingest_us)
        events = pa.concat_batches([events, odd]) if events.num_rows else odd
    if (begins[1:] < begins[:-1]).any():
        order = np.argsort(begins, kind="stable")
        begins, events = begins[order], events.take(pa.array(order))
    first = np.searchsorted(begins, scanned.bounds).tolist()
    rows = map(slice, first, first[1:])
    return Read(events, [Part(each, bad) if isinstance(bad, list) else bad for each, bad in zip(rows, rest.bad, strict=True)])


def _read_odd_bodies(bodies: list[bytes], scanned: Scanned, max_events: int, rest: _Rest) -> None:
    for number in np.flatnonzero(scanned.counts < 0).tolist():
        try:
            events, bad = check_json(bodies[number])
        except Malformed as error:
            rest.bad[number] = error
            continue
        if len(events) + len(bad) > max_events:
            rest.bad[number] = TooMany(f"the body has more than {max_events:,} events")
            continue
        rest.events.extend(events)
        rest.places.extend([int(scanned.bounds[number])] * len(events))
        rest.bad[number] = bad


def _read_odd_events(scanned: Scanned, rest: _Rest) -> None:
    rows = np.flatnonzero(scanned.is_odd)
    numbers = np.searchsorted(scanned.bounds, scanned.begins[rows], "right") - 1
    for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
        begin = int(scanned.begins[row])
        raw = scanned.data[begin : scanned.ends[row]].tobytes()
        event = check_event(raw)
        bad = rest.bad[number]
        if not isinstance(event, str):
            rest.events.append(event)
            rest.places.append(begin)
        elif isinstance(bad, list):
            bad.append(Bad(raw, event))


def _scan(bodies: list[bytes], max_events: int, kernels: Kernels | None) -> Scanned:
    """Let the kernel find the events; without it all bodies are odd."""
    bounds = np.cumsum([0, *(len(body) + 1 for body in bodies)])
    data = np.frombuffer(b"\0".join([*bodies, _PAD]), np.uint8)
    most = len(data) // _SMALLEST_EVENT + 1 if kernels and len(data) < _MAX_BYTES else 0
    counts = np.full(len(bodies), -1)
    begins, ends, micros = (np.empty(most, np.int64) for _ in range(3))
    starts, lengths = (np.empty((most, len(KEYS)), np.int32) for _ in range(2))
    scanned = Scanned(data, bounds, counts, begins, ends, np.empty(most, np.bool_), micros, starts, lengths)
    rows = kernels.find(_at_every_byte(data), max_events, scanned) if kernels and most else 0
    scanned = Scanned(data, bounds, counts, *(each[:rows] for each in scanned[3:]))
    if kernels:
        kernels.times(scanned)
    return scanned


def _columns(scanned: Scanned, ingest_us: int, kernels: Kernels | None) -> pa.RecordBatch:
    """Copy what is not odd into columns, shape (rows, 14)."""
    micros, starts, lengths = scanned.micros, scanned.starts, scanned.lengths
    if scanned.is_odd.any():
        micros, starts, lengths = (each[~scanned.is_odd] for each in (micros, starts, lengths))
    count = len(micros)
    if count == 0 or kernels is None:
        return to_columns([], ingest_us)
    texts = KEYS[:-1]
    data = np.empty(len(scanned.data) + 8, np.uint8)
    offsets = np.zeros((len(texts), count + 1), np.int32)
    valid = np.zeros((len(texts), (count + 7) // 8), np.uint8)
    kernels.copy(_at_every_byte(scanned.data), starts, lengths, _at_every_byte(data), offsets, valid)
    times = {"event_time": micros, "ingest_time": np.full(count, ingest_us)}
    columns = {name: pa.Array.from_buffers(TIMESTAMP, count, [None, pa.py_buffer(each)]) for name, each in times.items()}
    begin = 0
    for number, name in enumerate(texts):
        end = begin + int(offsets[number, -1])
        buffers = [pa.py_buffer(each) for each in (valid[number], offsets[number], data[begin:end])]
        columns[name] = pa.Array.from_buffers(pa.string(), count, buffers)
        begin = end
    return pa.RecordBatch.from_arrays([columns[field.name] for field in EVENT], schema=EVENT)


def _at_every_byte(data: np.ndarray) -> np.ndarray:
    """The uint64 that begins at each byte; a view."""
    return np.ndarray(max(len(data) - 7, 0), "<u8", data, strides=(1,))


class Loaded:
    """The kernels, once they are loaded."""

    def __init__(self) -> None:
        self._kernels: Kernels | None = None
        self._seen_bytes = 0
        self._lock = threading.Lock()

    def get(self, size_bytes: int = 0) -> Kernels | None:
        """The kernels, or None until they are there. When they would have read enough bytes, a thread begins to load them."""
        if self._kernels is None:
            with self._lock:
                before, self._seen_bytes = self._seen_bytes, self._seen_bytes + size_bytes
                is_due = before < LOAD_AFTER_BYTES <= self._seen_bytes
            if is_due:
                threading.Thread(target=self._load_compiled, name="kernels").start()
        return self._kernels

    def _load_compiled(self) -> None:
        """Load after a process of its own has compiled: a thread of this one took the GIL from all others for over 16 s."""
        if importlib.util.find_spec("numba") is not None:
            code = "import os; os.nice(10); from gyral.event.scan import LOADED; LOADED.load()"
            if subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, start_new_session=True).returncode == 0:
                self.load()

    def load(self) -> None:
        """Import numba and compile, or take what its cache has; without numba nothing changes."""
        with contextlib.suppress(ImportError):
            from gyral.event.filling import copy, times
            from gyral.event.kernel import find

            kernels = Kernels(find, times, copy)
            good: dict[str, object] = {name: name for name in KEYS} | {"event_time": 1, "props": {}}
            body = msgspec.json.encode([good, good | {"app": "a" * (MAX_NAME_CHARS + 1)}])
            scanned = _scan([body], 2, kernels)
            expected = to_columns(check_json(body).events, 0)
            if scanned.is_odd.tolist() != [False, True] or not _columns(scanned, 0, kernels).equals(expected):
                raise RuntimeError("numba's cache has other kernels: remove the `__pycache__` beside `gyral/event/kernel.py`")
            self._kernels = kernels


LOADED = Loaded()
