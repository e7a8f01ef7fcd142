"""The lake's commit and its random access against the table formats one would use instead, on one million events.

- commit: 100 batches of 10,000 events, one after the other. gyral flushes every file and folder and keeps log offsets in the
  commit; delta-rs and pyiceberg (SQLite catalog) append as their documentation shows, and flush no data file.
- take: 1,000 random rows of the million after compaction, against a Parquet data set of the same rows (files of 250,000 rows,
  groups of 10,000) by `dataset.take`, and against one Parquet file read whole.

Each in a process of its own, in turn; medians of the rounds. Caveat: durable against not durable on purpose.
Command: .venv/bin/python benchmarks/lake/commit.py (about two minutes)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, peer, timed, write
from traffic import events

from gyral.event.wire import check_json, to_columns

BATCHES, ROWS, ROUNDS = 100, 10_000, 5

LOAD = """
import json, sys, time
import pyarrow as pa
with pa.ipc.open_file(sys.argv[1]) as reader:
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
took = []
def each(commit):
    for number, batch in enumerate(batches):
        start = time.perf_counter()
        commit(number, pa.Table.from_batches([batch]))
        took.append(time.perf_counter() - start)
    print(json.dumps({"commit_ms": 1e3 * sorted(took)[len(took) // 2], "events_per_s": sum(map(len, batches)) / sum(took)}))
"""
GYRAL_COMMIT = (
    LOAD
    + """
from pathlib import Path
from gyral.lake.table import Lake
lake = Lake(Path(sys.argv[2]))
snapshot = [lake.open("events")]
def commit(number, rows):
    places = [pa.repeat("p", len(rows)), pa.repeat(number, len(rows)), pa.array(range(len(rows)), pa.int32())]
    for name, column in zip(("src_partition", "src_offset", "src_index"), places):
        rows = rows.append_column(pa.field(name, column.type, nullable=False), column)
    snapshot[0] = lake.maintain("events", snapshot[0].commit(rows, {"p": number + 1}))
each(commit)
"""
)
DELTA = (
    LOAD
    + "\nfrom deltalake import write_deltalake\neach(lambda number, rows: write_deltalake(sys.argv[2], rows, mode='append'))\n"
)
ICEBERG = (
    LOAD
    + """
import os
from pyiceberg.catalog.sql import SqlCatalog
os.makedirs(sys.argv[2])
catalog = SqlCatalog("c", uri=f"sqlite:///{sys.argv[2]}/c.db", warehouse=f"file://{sys.argv[2]}")
catalog.create_namespace("n")
rows = pa.Table.from_batches(batches[:1])
table = catalog.create_table("n.t", rows.schema)
each(lambda number, rows: table.append(rows))
"""
)
TAKE = """
import json, sys, time
import numpy as np
from pathlib import Path
import pyarrow.dataset as ds, pyarrow.parquet as pq
from gyral.lake.table import Lake
root, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "gyral":
    snapshot = Lake(root / "gyral").snapshot("events")
    take, rows = snapshot.take, snapshot.count()
elif kind == "parquet":
    data = ds.dataset(root / "parquet")
    take, rows = data.take, data.count_rows()
else:
    one = root / "one.parquet"
    take, rows = lambda places: pq.read_table(one).take(places), pq.ParquetFile(one).metadata.num_rows
assert rows == 1_000_000
took = []
for seed in range(9):
    places = np.sort(np.random.default_rng(seed).choice(rows, 1_000, replace=False)).tolist()
    start = time.perf_counter()
    assert len(take(places)) == 1_000
    took.append(time.perf_counter() - start)
print(json.dumps({"take_ms": 1e3 * sorted(took[2:])[3]}))
"""
COMPACT = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from gyral.lake import table
root = Path(sys.argv[1])
snapshot = table.Lake(root / "gyral").snapshot("events")
while (merged := snapshot.compact()).num_fragments < snapshot.num_fragments:
    snapshot = merged
rows = snapshot.read()
(root / "parquet").mkdir()
for number in range(4):
    part = rows.slice(250_000 * number, 250_000)
    pq.write_table(part, root / "parquet" / f"{number}.parquet", row_group_size=10_000, compression="zstd")
pq.write_table(rows, root / "one.parquet", compression="zstd")
print(snapshot.num_fragments)
"""


def main() -> None:
    delta = peer("lake-delta", ["deltalake==1.6.6", "pyarrow==26.0.1"])
    iceberg = peer("lake-iceberg", ["pyiceberg[sql-sqlite,pyarrow]==0.12.0"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_batches(root / "batches.arrow")
        count = iter(range(1_000))

        def run(python: str, code: str) -> dict[str, float]:
            done = timed([python, "-c", code, str(root / "batches.arrow"), str(root / f"table-{next(count)}")])
            return {**json.loads(done.pop("stdout")), **done}

        committed = in_turn(
            {
                "gyral": lambda: run(PYTHON, GYRAL_COMMIT),
                "delta": lambda: run(delta, DELTA),
                "iceberg": lambda: run(iceberg, ICEBERG),
            },
            ROUNDS,
        )
        made = [PYTHON, "-c", GYRAL_COMMIT, str(root / "batches.arrow"), str(root / "gyral")]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        fragments = int(subprocess.run([PYTHON, "-c", COMPACT, str(root)], check=True, capture_output=True).stdout)

        def take(kind: str) -> dict[str, float]:
            result: dict[str, float] = json.loads(timed([PYTHON, "-c", TAKE, str(root), kind])["stdout"])
            return result

        taken = in_turn({kind: lambda kind=kind: take(kind) for kind in ("gyral", "parquet", "whole")}, ROUNDS)
    write(
        "lake_commit",
        {
            "commit": committed,
            "to_delta": _ratio(committed, "delta", "events_per_s"),
            "to_iceberg": _ratio(committed, "iceberg", "events_per_s"),
            "take": taken,
            "take_to_parquet": round(taken["parquet"]["take_ms"]["median"] / taken["gyral"]["take_ms"]["median"], 2),
            "take_to_whole_file": round(taken["whole"]["take_ms"]["median"] / taken["gyral"]["take_ms"]["median"], 2),
            "fragments_before_and_after_compaction": [BATCHES, fragments],
        },
    )


def _write_batches(path: Path) -> None:
    import pyarrow as pa

    batches = [to_columns(check_json(events(ROWS, seed=n, nonce=f"{n:08d}")).events, n) for n in range(BATCHES)]
    with pa.ipc.new_file(str(path), batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _ratio(results: dict[str, Any], other: str, figure: str) -> float:
    return round(results["gyral"][figure]["median"] / results[other][figure]["median"], 2)


if __name__ == "__main__":
    main()
