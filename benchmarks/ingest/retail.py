"""Ingest of the bundled 541,909 rows on one core: file → log → lake, durable, deduplicated.

Peers in the same run, pinned to the same core, interleaved:
- `parquet`: a pyarrow loop that reads the file and writes it as Parquet in commits of the same size, each fsynced. No ids, no
  log, no deduplication, no quarantine: the floor that nobody who does those can reach.
- `deltalake`: the same loop appending to a Delta table, which fsyncs nothing.

Also, interleaved with a plain run: reading the file again (all duplicates), and ten times the rows (shifted times), to show how
time and memory grow; growth is read from CPU seconds, which what else runs on the core disturbs less.
Caveats: `events_per_s` counts from the first row to the last commit by the run's own clock, so it falls when other work takes
the core; `events_per_cpu_s` counts the CPU of the whole process, the start of Python included.
Command: .venv/bin/python benchmarks/ingest/retail.py (about three minutes)
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import GYRAL, PYTHON, ROOT, in_turn, peer, timed, write

SOURCE = ROOT / "data" / "online_retail.parquet"
ROWS = 541_909
TIMES = 5
GROWTH_TIMES = 3

LOOP = """
import os, sys
import pyarrow as pa, pyarrow.parquet as pq
out = sys.argv[2]
os.makedirs(out)
batches, number = [], 0
def commit(rows):
    {commit}
for batch in pq.ParquetFile(sys.argv[1]).iter_batches(32768):
    batches.append(batch)
    if len(batches) == 2:
        commit(pa.Table.from_batches(batches)); batches = []; number += 1
if batches:
    commit(pa.Table.from_batches(batches))
"""
PARQUET = LOOP.format(
    commit="path = f'{out}/{number}.parquet'; pq.write_table(rows, path)\n"
    "    for each in (path, out):\n        fd = os.open(each, os.O_RDONLY); os.fsync(fd); os.close(fd)"
)
DELTA = "from deltalake import write_deltalake\n" + LOOP.format(commit="write_deltalake(out, rows, mode='append')")


def main() -> None:
    cpus = {sorted(os.sched_getaffinity(0))[-1]}
    delta = peer("deltalake", ["deltalake==1.6.6", "pyarrow==26.0.1"])
    with tempfile.TemporaryDirectory() as folder:
        counter = iter(range(10**6))

        def gyral(source: Path, root: Path) -> dict[str, float]:
            command = [*GYRAL, "ingest", "--root", str(root), "--source", str(source), "--on", "local://threads=1", "--json"]
            run = timed(command, cpus=cpus)
            told = json.loads(run.pop("stdout").strip().splitlines()[-1])
            return {**run, "events_per_s": told["rows_per_s"], "accepted": told["accepted"], "duplicate": told["duplicate"]}

        def fresh(source: Path = SOURCE) -> dict[str, float]:
            root = Path(folder, f"g{next(counter)}")
            result = gyral(source, root)
            shutil.rmtree(root)
            return result

        def loop(python: str, code: str) -> dict[str, float]:
            out = Path(folder, f"p{next(counter)}")
            result = timed([python, "-c", code, str(SOURCE), str(out)], cpus=cpus)
            shutil.rmtree(out)
            return result

        runs = {"gyral": fresh, "parquet": lambda: loop(PYTHON, PARQUET), "deltalake": lambda: loop(delta, DELTA)}
        result = in_turn(runs, TIMES)
        big = _tenfold(Path(folder, "tenfold.parquet"))
        root = Path(folder, "again")
        gyral(SOURCE, root)
        growth_runs = {"once": fresh, "again": lambda: gyral(SOURCE, root), "tenfold": lambda: fresh(big)}
        growth = in_turn(growth_runs, GROWTH_TIMES, warmup=0)
    medians, grown = _medians(result), _medians(growth)
    rate = medians["gyral"]["events_per_s"]
    write(
        "ingest_retail",
        {
            "rows": ROWS,
            "events_per_s": rate,
            "events_per_cpu_s": round(ROWS / medians["gyral"]["cpu_s"]),
            "peak_MB": round(medians["gyral"]["peak_bytes"] / 1e6, 1),
            "goal": {"events_per_s": 300_000, "peak_MB": 400},
            "cpu_ratio_to_parquet_loop": round(medians["gyral"]["cpu_s"] / medians["parquet"]["cpu_s"], 2),
            "cpu_ratio_to_deltalake": round(medians["gyral"]["cpu_s"] / medians["deltalake"]["cpu_s"], 2),
            "again": grown["again"],
            "tenfold": {**grown["tenfold"], "cpu_ratio_to_once": round(grown["tenfold"]["cpu_s"] / grown["once"]["cpu_s"], 2)},
            "spread_events_per_s": [min(result["gyral"]["events_per_s"]["all"]), max(result["gyral"]["events_per_s"]["all"])],
            "median_wall_s": round(medians["gyral"]["wall_s"], 3),
            "runs": result,
            "growth_runs": growth,
        },
    )


def _medians(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {name: {figure: each["median"] for figure, each in figures.items()} for name, figures in runs.items()}


def _tenfold(path: Path) -> Path:
    table = pq.read_table(SOURCE)
    with pq.ParquetWriter(path, table.schema) as writer:
        for number in range(10):
            shift = pa.scalar(number * 400 * 86_400_000_000, pa.duration("us"))
            writer.write_table(table.set_column(4, "InvoiceDate", pc.add(table["InvoiceDate"], shift)))
    return path


if __name__ == "__main__":
    main()
