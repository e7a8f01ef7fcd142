"""Filter and count by key as events come in: 200,000 JSON events from a file of lines, one process on one core.

- gyral: lines in micro-batches of 1,000 through `event.scan` (checked, all 14 columns), `pyarrow.compute` for the filter,
  `value_counts` for the micro-batch, a dict for what was before. There is no stream engine: this loop is what a user writes.
  Also by msgspec, with the lines put together to arrays and the checked events counted as the objects they are: no columns.
- bytewax: its `FileSource` (batches of 1,000), `map`, `filter`, `count_final`, with `json.loads` as in its documentation; with
  the typed msgspec decoder that gyral has; and with decoding and filter in one `flat_map_batch`, its fastest way.
- pathway: `jsonlines.read` (static), `filter`, `groupby().reduce(count)`.

Counted are the views of each object (10,000 at most, a few most of all), then again the subjects, of which nearly every event
has another. Timed in the process, imports and the loading of the compiled kernel excluded; the counts of all are compared. In
turn, medians of the rounds.
Caveats: gyral checks types and times of every field, the others decode or declare them; bytewax and pathway could go on as a
cluster and recover their state, the loop cannot: what gyral makes durable it makes durable before and after, not here.
Command: .venv/bin/python benchmarks/ingest/count.py (about three minutes)
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write
from traffic import events

EVENTS, ROUNDS = 200_000, 5
KEYS = ("object", "subject")

TIMED = """
import hashlib, json, sys, time
path, key, how = sys.argv[1:]
def tell(count):
    start, cpu = time.perf_counter(), time.process_time()
    counts = count()
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    digest = int(hashlib.blake2b(json.dumps(sorted(counts.items())).encode(), digest_size=6).hexdigest(), 16)
    rows = sum(1 for _ in open(path))
    told = {"events_per_s": rows / wall_s, "events_per_cpu_s": rows / cpu_s, "keys": len(counts), "digest": digest}
    print("\\n" + json.dumps(told))
"""
GYRAL = (
    TIMED
    + """
from collections import Counter
from itertools import islice
import pyarrow.compute as pc
from gyral.event import scan
from gyral.event.wire import check_json
if how == "kernel":
    scan.LOADED.load()
    assert scan.LOADED.get() is not None
def count():
    counts = Counter()
    with open(path, "rb") as file:
        while lines := list(islice(file, 1_000)):
            if how == "events":
                events = check_json(b"[" + b",".join(lines) + b"]").events
                counts.update(getattr(event, key) for event in events if event.kind == "view")
                continue
            batch = scan.read([b"".join(lines)], time.time_ns() // 1_000).events
            found = pc.value_counts(batch[key].filter(pc.equal(batch["kind"], "view")))
            for value, number in zip(found.field(0).to_pylist(), found.field(1).to_pylist()):
                counts[value] += number
    return counts
tell(count)
"""
)
BYTEWAX = (
    TIMED
    + """
from datetime import datetime
import bytewax.operators as op
import msgspec
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main
class Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    event_id: str
    event_time: datetime | float | int
    kind: str
    subject: str
    object: str | None = None
    session: str | None = None
    device_class: str | None = None
    app: str | None = None
    language: str | None = None
    country: str | None = None
    schema_id: str | None = None
    consent: str | None = None
    props: msgspec.Raw = msgspec.Raw()
decode = msgspec.json.Decoder(Event).decode
name = {"object": lambda event: event.object, "subject": lambda event: event.subject}[key]
out = []
flow = Dataflow("count")
stream = op.input("lines", flow, FileSource(path))
if how == "json":
    stream = op.filter("filter", op.map("decode", stream, json.loads), lambda event: event["kind"] == "view")
    name = lambda event: event[key]
elif how == "msgspec":
    stream = op.filter("filter", op.map("decode", stream, decode), lambda event: event.kind == "view")
else:
    stream = op.flat_map_batch("both", stream, lambda lines: [event for event in map(decode, lines) if event.kind == "view"])
op.output("out", op.count_final("count", stream, name), TestingSink(out))
def count():
    run_main(flow)
    return dict(out)
tell(count)
"""
)
PATHWAY = (
    TIMED
    + """
import pathway as pw
class Event(pw.Schema):
    kind: str
    subject: str
    object: str
def count():
    counts = {}
    rows = pw.io.jsonlines.read(path, schema=Event, mode="static")
    counted = rows.filter(pw.this.kind == "view").groupby(pw.this[key]).reduce(key=pw.this[key], count=pw.reducers.count())
    pw.io.subscribe(counted, on_change=lambda key, row, time, is_addition: counts.__setitem__(row["key"], row["count"]))
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    return counts
tell(count)
"""
)


def main() -> None:
    cpus = {sorted(os.sched_getaffinity(0))[-1]}
    bytewax = peer("ingest-bytewax", ["bytewax==0.21.1", "msgspec==0.22.0"])
    pathway = peer("ingest-pathway", ["pathway==0.33.0"])
    ways = {
        "gyral": (PYTHON, GYRAL, "kernel"),
        "gyral_events": (PYTHON, GYRAL, "events"),
        "bytewax": (bytewax, BYTEWAX, "json"),
        "bytewax_msgspec": (bytewax, BYTEWAX, "msgspec"),
        "bytewax_batch": (bytewax, BYTEWAX, "batch"),
        "pathway": (pathway, PATHWAY, ""),
    }
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events.jsonl")
        rows = json.loads(events(EVENTS, nonce="00000000"))
        path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))

        def run(name: str, key: str) -> dict[str, float]:
            python, code, how = ways[name]
            done = timed([python, "-c", code, str(path), key, how], cpus=cpus, cwd=folder)
            return {"peak_bytes": done["peak_bytes"], **json.loads(str(done["stdout"]).strip().splitlines()[-1])}

        for key in KEYS:
            results[key] = in_turn({name: lambda name=name, key=key: run(name, key) for name in ways}, ROUNDS)
            if len({value for figures in results[key].values() for value in figures.pop("digest")["all"]}) != 1:
                raise SystemExit(f"the counts by {key} differ: {results[key]}")
    ratios = {
        f"{mine}_to": {
            f"{name}_by_{key}": round(each[mine]["events_per_s"]["median"] / each[name]["events_per_s"]["median"], 2)
            for key, each in results.items()
            for name in ways
            if name != mine
        }
        for mine in ways
        if mine.startswith("gyral")
    }
    write("ingest_count", {"events": EVENTS, "identical_counts": True, **ratios, "by": results})


if __name__ == "__main__":
    main()
