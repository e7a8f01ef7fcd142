"""Failure points: where tests kill or stop the process, because random kills do not find what breaks between two lines.

`GYRAL_FAULT=lake.merged:3` kills the process (SIGKILL) when it comes to that point for the third time; a signal's name may
follow (`lake.planned:1:SIGSTOP`). Unset, a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

_point, _, _rest = os.environ.get("GYRAL_FAULT", "").partition(":")
_count, _, _signal = _rest.partition(":")
_left = int(_count or 1)


def fail_point(name: str) -> None:
    """Die here when the environment says so."""
    global _left
    if name == _point:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), getattr(signal, _signal or "SIGKILL"))
