"""A day of a billion events, of ten and of a hundred: what it takes, reckoned from measured rates and played through in time.

1. Figures: from the raw output of other benchmarks; what none of them keeps is measured here: what draining an event costs and
   takes in log and lake, merging of known ids, compaction, cores at a low rate. Each says where it is from, or `assumed`.
2. Needed: partitions (a process with a collector, its drain and a lake of its own), machines, cores, bytes, commits.
3. Simulated (`backlog.py`): the day in steps of ten seconds, with a daily curve (peak 3 × mean), ten minutes of twice the load
   at the peak, and there also a machine lost for 30 minutes and a drain paused for 10.
4. Validated: a real `gyral ingest --listen` whose drain sleeps 15 s at a time, under load; the same simulator in steps of 0.1 s
   has to tell the backlog, the delay and the size of the log that are measured.

Caveats: partitions on several machines are reckoned, not run: who sends must choose the partition (by a hash of the subject)
and keep to it, or ids are not known where they come again, and nothing reads several lakes as one. While a machine is lost its
share goes to the others, so a retry may be stored twice. The events are synthetic and compress well; one machine gave all;
simulated delays leave out the merges of ids, which stop a collector for as long as they take (`longest_merge_of_ids_s`).
Command: .venv/bin/python benchmarks/ingest/day.py (about two minutes)
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import lance
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from backlog import Layout, daily, simulate
from collect import Server
from measure import GYRAL, PYTHON, RESULTS, ROOT, write
from traffic import events

from gyral.event.codec import encode_payload
from gyral.event.wire import check_json, to_columns
from gyral.ingest.dedup import Run, Runs
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog

DAY_S, STEP_S, BODY, BACKLOG, MERGED = 86_400, 10, 100, 10_000, 8_000_000
VOLUMES = {"1 billion": 1e9, "10 billion": 1e10, "100 billion": 1e11}
PER_S, LOAD_S, SLEEP_S, LOW_PER_S = 30_000, 52.0, 15.0, 4_000


class Figure(NamedTuple):
    """A number and where it is from."""

    value: float
    source: str


GIVEN = {
    "machine_cores": Figure(16, "assumed: a common size"),
    "machine_bytes": Figure(64e9, "assumed: 4 GB a core"),
    "partition_bytes": Figure(4e9, "assumed: known ids may take the memory of one core"),
    "peak_to_mean": Figure(3, "assumed: usual for one region"),
    "burst": Figure(2, "assumed: ten minutes at the daily peak"),
    "load_at_burst": Figure(0.5, "assumed: of what a partition can take"),
    "dedup_days": Figure(1, "assumed: whoever sends again does so within a day"),
    "id_bytes": Figure(16, "read: ingest/dedup.py"),
    "ids_peak": Figure(2, "read: ingest/dedup.py; a merge makes new arrays before the old ones go"),
    "drain_every_s": Figure(0.25, "read: default of collect.drain_every_s"),
}


def measured(file: str, *keys: str) -> Figure:
    told = json.loads((RESULTS / f"{file}.json").read_text())
    source = f"results/{file}.json {'.'.join(keys)}, {told['machine']['date']}"
    for key in keys:
        told = told[key]
    return Figure(told, source)


def measure_here(root: Path) -> dict[str, Figure]:
    lake, took = Lake(root), {}
    payloads = [encode_payload(to_columns(check_json(events(BODY, n, f"{n:08d}")).events, n)) for n in range(BACKLOG)]
    with SqliteLog(lake.log_folder) as log:
        for stored in [log.submit("p", f"{n:032x}", payload, BODY) for n, payload in enumerate(payloads)]:
            stored.result()
        log_bytes, start = log.size_bytes("p"), time.process_time()
        rows = Drain(lake, log, 65_536).run().accepted
        took["drain"], start = time.process_time() - start, time.process_time()
    lake.snapshot("events").compact()
    took["compact"] = time.process_time() - start
    fragments = lance.dataset(str(lake.folder / "events")).get_fragments()
    lake_bytes = sum(file.file_size_bytes for fragment in fragments for file in fragment.metadata.files)
    runs = Runs()
    for seed in (1, 2):
        first = np.sort(np.random.default_rng(seed).integers(0, 1 << 63, MERGED).astype(np.uint64))
        start = time.process_time()
        runs.add(Run(first, first, np.arange(MERGED)))
    took["merge"] = time.process_time() - start
    return {
        "drain_events_per_cpu_s": Figure(round(rows / took["drain"]), f"measured here: {rows:,} events in batches of {BODY}"),
        "log_bytes_per_event": Figure(round(log_bytes / rows, 1), f"measured here: batches of {BODY}"),
        "lake_bytes_per_event": Figure(round(lake_bytes / rows, 1), "measured here: compacted"),
        "compact_s_per_million": Figure(round(took["compact"] / rows * 1e6, 2), "measured here: each row once"),
        "id_merge_ns": Figure(round(took["merge"] / 2 / MERGED * 1e9, 1), f"measured here: two runs of {MERGED:,}"),
    }


def validate(root: Path) -> tuple[dict[str, Any], Figure]:
    """Run gyral at a low rate for its cores, then with a drain that sleeps for what it was behind."""
    body = root / "body.json"
    body.write_bytes(events(BODY))
    lake, log, seen = Lake(root), SqliteLog(Lake(root).log_folder), []
    low = Figure(0, "")
    for options, per_s, seconds in (([], LOW_PER_S, 20.0), (["--set", f"collect.drain_every_s={SLEEP_S}"], PER_S, LOAD_S)):
        command = [*GYRAL, "ingest", "--root", str(root), "--listen", "127.0.0.1:0", "--json", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        server = Server(json.loads(process.stdout.readline())["url"], process)
        before, cpu, start = lake.snapshot("events").facts.rows, server.cpu_s(), time.monotonic()
        load = [PYTHON, str(ROOT / "benchmarks/load.py"), f"{server.url}/v1/events", "16", str(seconds), str(body)]
        running = subprocess.Popen([*load, str(per_s / BODY)], stdout=subprocess.PIPE)
        while running.poll() is None or (options and time.monotonic() - start < seconds + SLEEP_S):
            rows = lake.snapshot("events").facts.rows - before
            seen.append((time.monotonic() - start, rows, sum(log.size_bytes(name) for name in log.partitions())))
            time.sleep(0.1)
        told = json.loads(running.communicate()[0])
        if set(told["statuses"]) != {"200"}:
            raise SystemExit(f"requests were refused: {told}")
        if not options:
            cores = (server.cpu_s() - cpu) / (time.monotonic() - start)
            low, seen = Figure(round(cores, 3), f"measured here: {LOW_PER_S:,} events/s for {seconds:.0f} s"), []
        server.stop()
    return {
        "most_events_waiting_in_a_log": round(max(min(at, LOAD_S) * PER_S - rows for at, rows, _ in seen)),
        "most_log_MB_of_a_partition": round(max(size for *_, size in seen) / 1e6, 1),
        "longest_from_answer_to_lake_s": round(
            max(at - rows / PER_S for at, rows, _ in seen if rows < PER_S * LOAD_S * 0.999), 1
        ),
    }, low


def needed(volume: float, v: dict[str, float]) -> dict[str, Any]:
    """What a day of so many events takes; `v` are the figures' values."""
    mean, most = volume / DAY_S, volume / DAY_S * v["peak_to_mean"] * v["burst"]
    ids = volume * v["dedup_days"] * v["id_bytes"]
    by_rate = math.ceil(most / v["process_events_per_s"] / v["load_at_burst"])
    by_ids = math.ceil(ids * v["ids_peak"] / v["partition_bytes"])
    n = max(by_rate, by_ids)
    points = [(LOW_PER_S, v["cores_at_low_rate"]), (20_000, v["cores_at_20k"])]
    rates, cores = zip(
        *points, (v["process_events_per_s"], v["process_events_per_s"] / v["process_events_per_cpu_s"]), strict=True
    )
    cores_at = {name: n * float(np.interp(rate / n, rates, cores)) for name, rate in (("mean", mean), ("burst", most))}
    machines = max(cores_at["burst"] / v["machine_cores"], ids * v["ids_peak"] / v["machine_bytes"])
    return {
        "events_per_s": {"mean": round(mean), "peak": round(mean * v["peak_to_mean"]), "burst": round(most)},
        "partitions": {"by_rate": by_rate, "by_memory_of_ids": by_ids},
        "machines, one to spare": 1 + math.ceil(machines),
        "cores": {name: round(value, 1) for name, value in cores_at.items()},
        "GB": {
            "log_written": round(volume * v["log_bytes_per_event"] / 1e9),
            "lake": round(volume * v["lake_bytes_per_event"] / 1e9),
            "ids": round(ids / 1e9),
        },
        "log_busy_at_burst": round(most / n / v["log_append_events_per_s"], 3),
        "longest_merge_of_ids_s": round(volume / n * v["id_merge_ns"] / 1e9, 1),
        "commits": round(n * DAY_S / v["drain_every_s"]),
        "core_h": {
            "commits of 10,000": round(volume / v["lake_commit_events_per_s"] / 3600, 2),
            "compaction": round(volume / 1e6 * v["compact_s_per_million"] / 3600, 2),
            "files instead of HTTP": round(volume / v["file_events_per_cpu_s"] / 3600, 2),
            "one as-of join of all": round(volume / 1e6 * v["asof_s"] / 3600, 2),
        },
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        here = measure_here(Path(one))
        Lake(Path(two)).open("events")
        seen, low = validate(Path(two))
    figures = {
        "process_events_per_s": measured("ingest_collect", "closed_loop", "gyral", "events_per_s"),
        "process_events_per_cpu_s": measured("ingest_collect", "closed_loop", "gyral", "events_per_cpu_s"),
        "cores_at_20k": measured("ingest_collect", "steady", "cores_used"),
        "cores_at_low_rate": low,
        "log_append_events_per_s": measured("log_append", "100_events", "events_per_s", "log"),
        "lake_commit_events_per_s": measured("lake_commit", "commit", "gyral", "events_per_s", "median"),
        "file_events_per_cpu_s": measured("ingest_retail", "events_per_cpu_s"),
        "asof_s": measured("lake_asof", "results", "gyral", "join_s", "median"),  # of 1,000,000 rows
        **here,
        **GIVEN,
    }
    v = {name: figure.value for name, figure in figures.items()}
    cores, drain_s = v["process_events_per_s"] / v["process_events_per_cpu_s"], 1 / v["drain_events_per_cpu_s"]
    rates = cores, 1 / v["process_events_per_cpu_s"] - drain_s, drain_s, v["log_bytes_per_event"]
    asleep = Layout(1, 1, *rates, drain_every_s=SLEEP_S)
    told = simulate(asleep, np.where(np.arange(0, LOAD_S + SLEEP_S, 0.1) < LOAD_S, PER_S, 0.0), 0.1)
    days: dict[str, Any] = {}
    for name, volume in VOLUMES.items():
        need = needed(volume, v)
        best = max(need["partitions"].values()), need["machines, one to spare"]
        peak = DAY_S // STEP_S // 2
        lost, paused = range(peak, peak + 1800 // STEP_S), range(peak, peak + 600 // STEP_S)
        rate = daily(volume, v["peak_to_mean"], STEP_S)
        rate[paused.start : paused.stop] *= v["burst"]
        days[name] = need
        for n, machines in [(1, 1), (2, 2), best] if name == "1 billion" else [best]:
            layout = Layout(n, machines, *rates, drain_every_s=v["drain_every_s"])
            days[name][f"simulated: {n} on {machines}"] = simulate(layout, rate, STEP_S, lost, paused)
    for name, figure in figures.items():
        print(f"{name:26} {figure.value:>12,.6g}  {figure.source}", file=sys.stderr)
    for name, day in [*days.items(), ("validation", {"simulated": told, "measured": seen})]:
        for what, each in day.items():
            print(f"{name:12} {what:34} {each}", file=sys.stderr)
    sources = {name: figure._asdict() for name, figure in figures.items()}
    write("ingest_day", {"figures": sources, "days": days, "validation": {"simulated": told, "measured": seen}})


if __name__ == "__main__":
    main()
