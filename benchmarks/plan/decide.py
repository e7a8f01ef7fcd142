"""Whether a row of a benchmark is decided: it is where the machine was quiet, and kept or short by its goal."""

from __future__ import annotations

import os
import sys

QUIET = 2.5
"""Load up to which CPU seconds are those of a quiet machine of two cores: the benchmark's own part is one of it."""


def is_quiet() -> bool:
    """Whether the machine's load over the last minute says so."""
    return os.getloadavg()[0] <= QUIET


def row(name: str, off: float, within: float, decided: bool) -> dict[str, object]:
    """Tell a row, `off` from what was measured by such a share."""
    verdict = ("kept" if abs(off) <= within else "short") if decided else "not decided: the machine was busy"
    print(f"{name}: {off:+.1%} off, within {within:.0%} wanted: {verdict}", file=sys.stderr)
    return {"off": round(off, 4), "within": within, "verdict": verdict}
