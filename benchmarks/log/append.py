"""Durable append: the embedded log against a bare `write` + `fdatasync` loop of the same bytes, one batch at a time.

The bytes are the payloads that the collector makes of 100 and of 1,000 events. Rounds are interleaved, each on files of its own
in one folder; medians of the rounds' rates are compared. The log does more than the loop: a transaction, a unique batch id,
recovery.
Caveat: what an fsync costs differs tenfold between disks and from second to second; the ratio is what to read.
Command: .venv/bin/python benchmarks/log/append.py [FOLDER] (about one minute)
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write
from traffic import events

from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.log.sqlite import SqliteLog

ROUNDS = 9
SECONDS = 1.5


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        results = {f"{size}_events": _compare(Path(folder), size) for size in (100, 1_000)}
    write("log_append", results)


def _compare(folder: Path, size: int) -> dict[str, Any]:
    payload = encode_payload(to_columns(check_json(events(size)).events, 0))
    rates: dict[str, list[float]] = {"bare": [], "log": []}
    cpu: dict[str, list[float]] = {"bare": [], "log": []}
    for number in range(ROUNDS):
        for name, run in (("bare", _bare), ("log", _log)):
            before = time.process_time()
            count, took = run(folder / f"{size}-{number}-{name}", payload)
            rates[name].append(count * size / took)
            cpu[name].append((time.process_time() - before) / count / size * 1e6)
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "payload_bytes": len(payload),
        "events_per_s": {name: round(value) for name, value in median.items()},
        "rounds": {name: [round(value) for value in values] for name, values in rates.items()},
        "cpu_us_per_event": {name: round(statistics.median(values), 3) for name, values in cpu.items()},
        "log_to_bare": round(median["log"] / median["bare"], 3),
    }


def _bare(path: Path, payload: bytes) -> tuple[int, float]:
    count, start = 0, time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        while (took := time.perf_counter() - start) < SECONDS:
            file.write(payload)
            os.fdatasync(file.fileno())
            count += 1
    return count, took


def _log(path: Path, payload: bytes) -> tuple[int, float]:
    with SqliteLog(path) as log:
        log.append("a", "first", payload, 1)
        count, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < SECONDS:
            log.append("a", f"{count:032x}", payload, 1)
            count += 1
    return count, took


if __name__ == "__main__":
    main()
