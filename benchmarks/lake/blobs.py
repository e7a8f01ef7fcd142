"""Random access to blobs: 200 of 2,000 of 50 KB each, by their positions, until they are `bytes`.

- gyral: a table with a `blob_field`, 20 durable commits of 100 rows, compacted; `Snapshot.take_blobs`.
- gyral plain: the `quarantine` table, whose `raw` is a plain binary column, by the same commits; `Snapshot.take`.
- Parquet by `dataset.take`, in row groups of 100 rows and in one (pyarrow's default here); and in groups of one row, read by
  their numbers (`read_row_groups`): what somebody would do who knows that only single rows will be read.
- files: one file a blob, opened and read: the floor.

Each in a process of its own, in turn; medians of the rounds. Random bytes, so no format compresses them. What is taken is the
same for all, checked by a digest of the bytes of every take. Caveats: reading Parquet uses both cores, so its wall time depends
on what else runs: read the CPU seconds too. All of it is in the page cache; a disk would punish those who read what they were
not asked for even more.
Command: .venv/bin/python benchmarks/lake/blobs.py (about one minute)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, in_turn, timed, write

BLOBS, BLOB_BYTES, TAKEN, ROUNDS = 2_000, 50_000, 200, 9
KINDS = ("gyral", "gyral_plain", "parquet_100", "parquet_default", "parquet_1", "files")

MAKE = """
import json, sys, time
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from gyral.event.schema import TABLES
from gyral.lake.snapshot import blob_field
from gyral.lake.table import Lake
root, count, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
random = np.random.default_rng(0)
blobs = [random.bytes(size) for _ in range(count)]
TABLES["images"] = pa.schema([pa.field("event_id", pa.string(), nullable=False), blob_field("raw")])
lake, took = Lake(root), {}
for name in ("quarantine", "images"):
    schema = TABLES[name]
    snapshot, start = lake.open(name), time.perf_counter()
    for first in range(0, count, 100):
        given = {"event_id": [str(first + n) for n in range(100)], "raw": blobs[first : first + 100], "reason": ["x"] * 100,
            "src_partition": ["p"] * 100}
        columns = [pa.array(given.get(f.name, [None if f.nullable else 0] * 100), f.type) for f in schema]
        snapshot = snapshot.commit(pa.table(columns, schema=schema), {"p": first + 100})
    took[name], start = round(time.perf_counter() - start, 3), time.perf_counter()
    assert snapshot.compact().num_fragments == 1
    took[name + "_compaction"] = round(time.perf_counter() - start, 3)
rows = lake.snapshot("quarantine").read()
for name, groups in (("100", {"row_group_size": 100}), ("default", {}), ("1", {"row_group_size": 1})):
    start = time.perf_counter()
    pq.write_table(rows, root / f"{name}.parquet", **groups)
    took["parquet_" + name] = round(time.perf_counter() - start, 3)
(root / "files").mkdir()
for number, blob in enumerate(blobs):
    (root / "files" / str(number)).write_bytes(blob)
print(json.dumps(took))
"""
TAKE = """
import hashlib, json, sys, time
from pathlib import Path
import numpy as np
root, kind, count, taken = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if kind == "gyral":
    from gyral.lake.table import Lake
    snapshot = Lake(root).snapshot("images")
    take = lambda places: snapshot.take_blobs("raw", places)
elif kind == "gyral_plain":
    from gyral.lake.table import Lake
    snapshot = Lake(root).snapshot("quarantine")
    take = lambda places: snapshot.take(places, ["raw"])["raw"].to_pylist()
elif kind == "files":
    take = lambda places: [(root / "files" / str(place)).read_bytes() for place in places]
elif kind == "parquet_1":
    import pyarrow.parquet as pq
    file = pq.ParquetFile(root / "1.parquet")
    take = lambda places: file.read_row_groups(places, columns=["raw"])["raw"].to_pylist()
else:
    import pyarrow.dataset as ds
    data = ds.dataset(root / f"{kind.removeprefix('parquet_')}.parquet")
    take = lambda places: data.take(places, columns=["raw"])["raw"].to_pylist()
took, used, digest = [], [], hashlib.blake2b(digest_size=6)
for seed in range(9):
    places = np.sort(np.random.default_rng(seed).choice(count, taken, replace=False)).tolist()
    start, cpu = time.perf_counter(), time.process_time()
    blobs = take(places)
    took.append(1e3 * (time.perf_counter() - start))
    used.append(1e3 * (time.process_time() - cpu))
    for blob in blobs:
        digest.update(blob)
middle = lambda times: sorted(times[2:])[3]
print(json.dumps({"take_ms": middle(took), "take_cpu_ms": middle(used), "digest": int(digest.hexdigest(), 16)}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make = [PYTHON, "-c", MAKE, folder, str(BLOBS), str(BLOB_BYTES)]
        written = json.loads(subprocess.run(make, check=True, capture_output=True).stdout)
        os.sync()  # or what was written is flushed while it is read

        def take(kind: str) -> dict[str, float]:
            done = timed([PYTHON, "-c", TAKE, folder, kind, str(BLOBS), str(TAKEN)])
            return {**json.loads(str(done.pop("stdout"))), **done}

        taken = in_turn({kind: lambda kind=kind: take(kind) for kind in KINDS}, ROUNDS)
    digests = {value for figures in taken.values() for value in figures.pop("digest")["all"]}
    if len(digests) != 1:
        raise SystemExit(f"not the same bytes: {digests}")
    ratios = {
        f"{figure}_to_gyral": {
            kind: round(taken[kind][figure]["median"] / taken["gyral"][figure]["median"], 2) for kind in KINDS[1:]
        }
        for figure in ("take_ms", "take_cpu_ms")
    }
    write(
        "lake_blobs",
        {
            "blobs": BLOBS,
            "blob_bytes": BLOB_BYTES,
            "taken": TAKEN,
            "take": taken,
            "identical_bytes": True,
            "write_s": written,
            **ratios,
        },
    )


if __name__ == "__main__":
    main()
