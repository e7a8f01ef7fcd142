"""The gate: has a hot path become slower than it was? Ratios and counts, never seconds.

A timed path (`gate_paths.py`) and a reference take turns in one process; of each the least CPU time counts, since what else
runs only ever adds, and their ratio is compared with `gate.json`. A slow path is measured again, twice, before it is told.
Ratios differ between processors, so those of one that `gate.json` does not know are shown and not judged. Plain
Python is judged by the bytecodes that gyral's modules run: exact, and of one version of Python.

Beside other work (two cores, load 40 to 51, ten runs) counts never changed, and the ratios were .73 to 1.20 of what was kept.
So the suite judges counts (`--counts`, a second) and, with nothing beside it, ratios but for the two that came near their
limits (`--steady`); those two are judged by hand.

Command: .venv/bin/python benchmarks/gate.py (some seconds); `--keep N` measures N times and writes what holds from now on.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from gate_paths import COUNTED, TIMED, Work, reference  # noqa: E402
from measure import machine  # noqa: E402

BASE = Path(__file__).with_name("gate.json")
ROUNDS = 30
SLACK = 1.2
"""Least that a ratio may grow; more where repeated runs spread wider."""
ROOM = 1.05
"""Times the largest that was seen, which a limit is at least."""
COUNTS = 1.03
"""Most that a count of bytecodes may grow."""
UNSTEADY = ("rules of text", "top-k of vectors")
"""Their ratios were at 1.20 of what was kept, beside other work."""


def ratio(work: Work, unit: Work, rounds: int = ROUNDS) -> float:
    """CPU time of `work` over that of `unit`, the least of each, in turn."""
    least = {work: float("inf"), unit: float("inf")}
    for _ in range(rounds):
        for each in (unit, work):
            begin = time.thread_time()
            each()
            least[each] = min(least[each], time.thread_time() - begin)
    return least[work] / least[unit]


def bytecodes(work: Work) -> int:
    """How many bytecodes of gyral's own modules a call runs; the second call, when all is imported."""
    work()
    count = 0

    def step(frame: Any, event: str, _: Any) -> Any:
        nonlocal count
        if event == "call":
            if f"{os.sep}gyral{os.sep}" not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return step

    sys.settrace(step)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def places() -> tuple[str, str]:
    """The processor and the Python that baselines are of."""
    return str(machine()["processor"]), f"{sys.version_info.major}.{sys.version_info.minor}"


def judge(found: Callable[[], float], limit: float) -> tuple[bool, float]:
    """Whether it is within its limit: the least of three tries, of which the first mostly suffices."""
    least = float("inf")
    for _ in range(3):
        least = min(least, found())
        if least <= limit:
            return True, least
    return False, least


def keep(times: int) -> None:
    """Measure `times` times and write medians, and limits a little above what was seen."""
    processor, python = places()
    told: dict[str, Any] = json.loads(BASE.read_text()) if BASE.exists() else {"ratios": {}, "bytecodes": {}}
    unit, works = reference(), {name: make() for name, make in TIMED.items()}
    for work in (unit, *works.values()):
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(times):
        for name, work in works.items():
            found[name].append(ratio(work, unit))
    told["ratios"][processor] = {
        name: {
            "ratio": round(statistics.median(each), 4),
            "limit": round(max(SLACK * statistics.median(each), ROOM * max(each)), 4),
            "seen": [round(min(each), 4), round(max(each), 4), times],
        }
        for name, each in found.items()
    }
    told["bytecodes"][python] = {name: bytecodes(make()) for name, make in COUNTED.items()}
    BASE.write_text(json.dumps(told, indent=1) + "\n")


def gate(only: str = "") -> bool:
    """Measure every path whose name has `only` in it, tell a line of each, and whether none is slower."""
    slow = ratios([name for name in TIMED if only in name]) + count(kept_counts(), only)
    if slow:
        print(f"gate: slower: {', '.join(slow)}; if that is meant, `benchmarks/gate.py --keep 10`", file=sys.stderr)
    return not slow


def ratios(names: list[str]) -> list[str]:
    """Measure the ratios of these paths; those that are slower than they were."""
    processor, _ = places()
    unit, slow = reference(), []  # type: ignore[var-annotated]
    works = {name: TIMED[name]() for name in names}  # all first, as by `keep`: memory is alike
    for work in (unit, *works.values()):
        work()
    of_processor = json.loads(BASE.read_text())["ratios"].get(processor, {})
    for name, work in works.items():
        kept = of_processor.get(name)
        is_in, value = judge(partial(ratio, work, unit), kept["limit"] if kept else float("inf"))
        was = f"{value / kept['ratio']:.2f}x of what it was" if kept else f"no ratio of {processor} is kept"
        _tell(name, f"{value:.3f} of the reference, {was}", is_in, slow)
    return slow


def kept_counts() -> dict[str, int]:
    """Path → bytecodes, of this version of Python."""
    kept: dict[str, int] = json.loads(BASE.read_text())["bytecodes"].get(places()[1], {})
    return kept


def count(kept: dict[str, int], only: str = "") -> list[str]:
    """Count the bytecodes of the paths whose name has `only` in it; those that run more than they did."""
    slow: list[str] = []
    for name in (each for each in COUNTED if only in each):
        value, was = bytecodes(COUNTED[name]()), kept.get(name)
        told_was = f"{value / was:.3f}x of what it was" if was else f"no count of Python {places()[1]} is kept"
        _tell(name, f"{value} bytecodes, {told_was}", not was or value <= COUNTS * was, slow)
    return slow


def _tell(name: str, what: str, is_in: bool, slow: list[str]) -> None:
    print(f"gate: {'ok  ' if is_in else 'SLOW'} {name}: {what}")
    if not is_in:
        slow.append(name)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--keep"]:
        keep(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--counts"]:
        sys.exit(bool(count(kept_counts())))
    elif sys.argv[1:2] == ["--steady"]:
        sys.exit(bool(ratios([name for name in TIMED if name not in UNSTEADY])))
    else:
        sys.exit(not gate(*sys.argv[1:2]))
