"""One progress record for every verb, and the three ways it is shown.

The record goes to stderr as a rewriting line on a terminal, as a line every 10 s elsewhere, or as JSON lines with `--json`;
the run keeps the same records in `metrics.jsonl`, from which the pages read. Silence over 10 s is a bug.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import msgspec

TERMINAL_INTERVAL_S = 0.1
PLAIN_INTERVAL_S = 10.0
RECORD_INTERVAL_S = 0.5


class Progress(msgspec.Struct, frozen=True):
    """Where a verb stands. `total` and `eta` are None when the end is not known; times in seconds, `rate` in units a second."""

    verb: str
    done: float
    total: float | None
    unit: str
    rate: float
    eta: float | None
    elapsed: float
    metric: dict[str, Any] = {}

    def line(self) -> str:
        """Write it for a person: units shown, thousands separated."""
        head = f"{self.verb:<8} {number(self.done)}"
        if self.total:
            head += f" of {number(self.total)}"
        parts = [f"{head} {self.unit}"]
        if self.total:
            parts.append(f"{100 * self.done / self.total:.0f} %")
        if self.rate:
            parts.append(f"{number(self.rate)} {self.unit}/s")
        parts += [f"{name} {number(value)}" for name, value in self.metric.items()]
        parts.append(f"{duration(self.eta)} left" if self.eta is not None else duration(self.elapsed))
        return "  ".join(parts)


class Meter:
    """Measures one verb and hands out records at the pace the listener wants.

    Parameters
    ----------
    verb, unit : what runs and what is counted.
    listener : called with a record at most every `RECORD_INTERVAL_S` seconds and at the end.
    """

    def __init__(self, verb: str, unit: str, total: float | None, listener: Callable[[Progress, bool], None]) -> None:
        self.verb, self.unit, self.total = verb, unit, total
        self._listener = listener
        self._start = time.monotonic()
        self._last = 0.0
        self.last_update = self._start
        self.record = Progress(verb, 0, total, unit, 0.0, None, 0.0)

    def update(self, done: float, total: float | None = None, **metric: Any) -> None:
        """Report the amount done so far (not the increment)."""
        self.total = total if total is not None else self.total
        if self.total is not None:
            self.total = max(self.total, done)
        now = time.monotonic()
        elapsed = now - self._start
        rate = done / elapsed if elapsed > 0 else 0.0
        left = (self.total - done) / rate if self.total and rate > 0 else None
        self.last_update = now
        self.record = Progress(self.verb, done, self.total, self.unit, rate, left, elapsed, metric)
        finished = self.total is not None and done >= self.total
        if finished or now - self._last >= TERMINAL_INTERVAL_S:
            self._last = now
            self._listener(self.record, finished)


class Screen:
    """Writes records and notes to stderr; the only place that does while a verb runs."""

    def __init__(self, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        self.stream = stream or sys.stderr
        self.as_json = as_json
        self.is_quiet = bool(os.environ.get("GYRAL_NO_PROGRESS"))
        self.is_broken = False
        self.is_terminal = self.stream.isatty() and not as_json and os.environ.get("TERM") != "dumb"
        self._last_plain = time.monotonic()
        self._width = 0

    def show(self, record: Progress, is_last: bool = False) -> None:
        """Show a record at the pace of this stream."""
        if self.is_quiet:
            return
        now = time.monotonic()
        if self.as_json:
            if is_last or now - self._last_plain >= 1.0:
                self._last_plain = now
                self._write(msgspec.json.encode(record).decode() + "\n")
        elif self.is_terminal:
            columns = os.get_terminal_size(self.stream.fileno()).columns
            text = record.line()[: max(columns - 1, 20)]
            self._write("\r" + text.ljust(self._width))
            self._width = len(text)
        elif now - self._last_plain >= PLAIN_INTERVAL_S:
            self._last_plain = now
            self._write(record.line() + "\n")

    def note(self, text: str) -> None:
        """Print a line that stays, also when progress is not wanted."""
        self._last_plain = time.monotonic()
        if self.as_json:
            self._write(msgspec.json.encode({"note": text}).decode() + "\n")
            return
        self.clear()
        self._write(text + "\n")

    def clear(self) -> None:
        """Wipe the rewriting line."""
        if self.is_terminal and self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self, text: str) -> None:
        if self.is_broken:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except (BrokenPipeError, ValueError):  # nobody listens any more; the work goes on
            self.is_broken = True


def number(value: Any) -> str:
    """Write a number for a person: thousands separated, four significant digits below 1,000."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def fixed(value: float | None, places: int = 4) -> str:
    """Write a metric with its decimals; `–` where there is none."""
    return "–" if value is None else f"{value:.{places}f}"


def duration(seconds: float) -> str:
    """Write a duration: `.42 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
