"""Wakes an event loop at a moment, to some tens of microseconds.

Timers of uvloop and of asyncio's epoll count in whole milliseconds, which is ten times what a fast answer takes. A `timerfd` is
a file that becomes readable at a moment. Where there is none (macOS), the loop's own timer is used, and lateness says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable

_MONOTONIC, _ABSOLUTE = 1, 1


class _Moment(ctypes.Structure):
    _fields_ = [("every_s", ctypes.c_long), ("every_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long)]


class Alarm:
    """One alarm of a loop; it calls once for each time it is set.

    Parameters
    ----------
    on_time : called in the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_time: Callable[[], None]) -> None:
        self._loop, self._on_time = loop, on_time
        self._timer: asyncio.TimerHandle | None = None
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file >= 0:
            self._moment = _Moment()
            self._address = ctypes.byref(self._moment)
            loop.add_reader(self._file, self._ring)

    def at(self, moment_s: float) -> None:
        """Ring then, in seconds of `time.monotonic`; what was set before is forgotten."""
        if self._file < 0:
            self.clear()
            self._timer = self._loop.call_at(moment_s, self._on_time)
            return
        whole = int(moment_s)
        self._moment.s, self._moment.ns = whole, max(int((moment_s - whole) * 1e9), 1)
        self._libc.timerfd_settime(self._file, _ABSOLUTE, self._address, None)

    def clear(self) -> None:
        """Forget what was set, where the loop's timer is used."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Ring no more; may be called twice."""
        self.clear()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it was set anew since
            os.read(self._file, 8)
            self._on_time()
