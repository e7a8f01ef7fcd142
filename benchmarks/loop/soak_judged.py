"""What was promised, and what a soak counted: rows of the lakes against the ledger, requests, memory, processes at the end."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soak_ledger
from soak_faults import Fault
from soak_ledger import Ledger
from soak_system import System

from gyral.lake.table import Lake
from gyral.model.live import places, tables
from gyral.params.chain import Chain, Folder
from gyral.params.records import weights_of

WARM_S = 240.0
"""Of a process's life that is not looked at: it loads, compiles, takes 66 MB for the kernels that read events, which it
loads after a megabyte of them, and reads what was learned before it. A line through such a step would be a slope."""
LEAST = 120
"""Samples, a second apart, from which a slope is taken."""
MOST_BYTES = 1 << 30
"""Of any process at any time, however young it is: a leak that kills hide would be bounded by nothing else."""
FLAT_BYTES_PER_S = 50_000
"""Three megabytes a minute: what the ids of events and the names of subjects take at this traffic is a hundredth of it."""
MAX_VIOLATIONS = 20


def memory_of(pids: list[int]) -> dict[int, dict[str, int]]:
    """Process → resident bytes and open files."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            found[pid] = {"rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"), "files": len(os.listdir(f"/proc/{pid}/fd"))}
    return found


def slopes(samples: list[dict[str, Any]], field: str, warm_s: float = WARM_S) -> list[dict[str, Any]]:
    """Growth a second of each process that lived long enough: a line through means of five seconds, its 95 % interval."""
    lives: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for sample in samples:
        for role, found in sample["roles"].items():
            for pid, each in found.items():
                lives.setdefault((role, pid), []).append((sample["t"], each[field]))
    told = []
    for (role, pid), life in lives.items():
        kept = np.array([each for each in life if each[0] >= life[0][0] + warm_s])
        if len(kept) < LEAST:
            continue
        blocks = np.array([part.mean(axis=0) for part in np.array_split(kept, len(kept) // 5)])
        x, y = blocks[:, 0] - blocks[:, 0].mean(), blocks[:, 1]
        slope = float(x @ y / (x @ x))
        rest = y - y.mean() - slope * x
        error = 1.96 * float(np.sqrt(rest @ rest / max(len(y) - 2, 1) / (x @ x)))
        told.append(
            {"role": role, "pid": pid, "seconds": len(kept), "per_s": round(slope, 3), "low": round(slope - error, 3),
             "high": round(slope + error, 3)}
        )  # fmt: skip
    return told


def learned(place: Path) -> tuple[int, int]:
    """Meetings that the tables of the shards hold in all, and of how many objects."""
    total = objects = 0
    for shard in sorted((place / places.SHARDS).glob("shard*")):
        with Chain(Folder(shard)) as chain:
            for bucket in chain.buckets([tables.SEEN]):
                rows = weights_of(chain.specs[tables.SEEN], bucket.records.bodies)[:, 0]
                total += int(rows.sum())
                objects += int((rows > 0).sum())
    return total, objects


def judged(
    system: System, ledger: Ledger, faults: list[Fault], samples: list[dict[str, Any]], ended: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Promises with what was counted, violations with the fault before each, and further counts."""
    promises: list[dict[str, Any]] = []
    violations: list[dict[str, Any]] = []

    def promise(promised: str, counted: str, bad: list[dict[str, Any]]) -> None:
        promises.append({"promised": promised, "counted": counted, "kept": not bad})
        for each in bad[:MAX_VIOLATIONS]:
            at = each.get("since")
            before = next((fault for fault in reversed(faults) if at is not None and fault.at <= at), None)
            told = f"{before.kind} at {before.at:.1f} s" if before else ""
            violations.append({"promised": promised, "after": told, **each})

    rows_of_live = 0
    for site, root in (("live", system.live), ("drained", system.drained)):
        sent, acknowledged = soak_ledger.events(ledger.path, site)
        names = Lake(root).snapshot("events").read(["event_id"], "kind = 'purchase'")["event_id"].to_pylist()
        counts = Counter(int(name.partition("-")[2]) for name in names)
        rows_of_live = len(names) if site == "live" else rows_of_live
        lost = sorted(acknowledged - counts.keys())
        twice = sorted(number for number, count in counts.items() if count > 1)
        foreign = sorted(counts.keys() - sent)
        of = f"`{site}`: {len(acknowledged):,} acknowledged, {len(counts):,} in the lake"
        promise(f"no acknowledged event of {site} is lost", f"{of}, {len(lost):,} lost", [{"event": each} for each in lost])
        promise(f"no event of {site} is there twice", f"{len(twice):,} twice", [{"event": each} for each in twice])
        promise(f"nothing is in {site} that nobody sent", f"{len(foreign):,} foreign", [{"event": each} for each in foreign])
    total, objects = learned(system.place)
    off = [{"learned": total, "events": rows_of_live}] if total != rows_of_live else []
    promise("every event is learned once", f"{total:,} meetings of {objects:,} objects from {rows_of_live:,} events", off)

    counted = soak_ledger.count(ledger.path, ledger.down, system.marked)
    shed = ", ".join(f"{count:,} {what}" for what, count in counted.shed.items()) or "none"
    told = f"{counted.answered:,} answered; shed: {shed}; while the harness had killed the listener: {counted.unreachable:,}"
    promise("no request fails beyond declared shedding", f"{told}; failed: {len(counted.failed):,}", counted.failed)
    promise("no answer mixes two versions", f"{len(counted.mixed):,} mixed, {len(system.marked):,} versions", counted.mixed)
    promise("nobody is answered by an older version than before", f"{len(counted.older):,}", counted.older)

    growth, files = slopes(samples, "rss_bytes"), slopes(samples, "files")
    most = max(((each["rss_bytes"], role) for one in samples for role, held in one["roles"].items() for each in held.values()))
    heavy = [{"role": most[1], "rss_bytes": most[0]}] if most[0] > MOST_BYTES else []
    promise(f"no process ever holds {MOST_BYTES >> 20:,} MiB", f"at most {most[0] >> 20:,} MiB, {most[1]}", heavy)
    if growth:  # a soak of minutes has nobody who is old enough
        grows = [each for each in growth if each["low"] > FLAT_BYTES_PER_S]
        promise("memory is flat", _told(growth, 60 / 1e6, "MB a minute"), grows)
        promise("open files are flat", _told(files, 60, "a minute"), [each for each in files if each["low"] > 0.05])
    ill = [{"since": each.at, "fault": each.kind} for each in faults if each.recovered_s is None]
    promise("all is well again after each fault", f"{len(faults) - len(ill):,} of {len(faults):,}", ill)
    bad = [{"service": name, "code": code} for name, code in ended["codes"].items() if code != 0]
    bad += [{"process": pid} for pid in ended["left"]]
    promise("everybody ends when told, and leaves nobody behind", f"exit codes {ended['codes']}", bad)
    more = {
        "answered": counted.answered, "shed": counted.shed, "unreachable": counted.unreachable, "memory": growth,
        "files": files,
        "learner": {name: ended["learner"].get(name) for name in ("learned", "published", "refused", "went_back")},
    }  # fmt: skip
    return promises, violations, more


def _told(growth: list[dict[str, Any]], scale: float, unit: str) -> str:
    worst = max(growth, key=lambda each: each["low"])
    low, mid, high = (scale * worst[name] for name in ("low", "per_s", "high"))
    return f"worst of {len(growth)}: {worst['role']}, {mid:.2f} ({low:.2f} to {high:.2f}) {unit}"
