"""How memory and time of the search for near-duplicates grow with the number of documents: 1, 3 and 10 million synthetic nodes.

A tenth of the nodes are edited copies: they share bands with the node before, and their texts share most words; every other
band key is random. A process each, its peak resident memory, and its CPU time without the making of nodes and texts.

100 million are inferred: CPU by the straight line through the last two; memory by adding to the largest peak what no
`memory_bytes` bounds: a partition's keys while it is sorted (14 / 64 of a record of 44 B a node), a byte a node, and 60 B a
pair that is returned and remembered.

Command: .venv/bin/python benchmarks/curate/near_memory.py (four minutes, 4 GB of disk)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, timed, write

SIZES = (1_000_000, 3_000_000, 10_000_000)
SEARCH = """
import json, resource, sys, tempfile, time
from pathlib import Path
import numpy as np, pyarrow as pa
from gyral.curate.near.pairs import Nodes, Settings, find_pairs
from gyral.curate.near.star import star

num, folder, batch = int(sys.argv[1]), Path(sys.argv[2]), 50_000
made = [0.0]
def nodes():
    for begin in range(0, num, batch):
        start = time.process_time()
        rng = np.random.default_rng(begin)
        bands = rng.integers(0, 1 << 64, (batch, 14), dtype=np.uint64)
        copies = np.arange(9, batch, 10)
        bands[copies, :6] = bands[copies - 1, :6]
        digests = rng.integers(0, 1 << 64, (batch, 2), dtype=np.uint64)
        each = Nodes(digests, bands, np.full(batch, 100, np.int32), rng.integers(500, 5_000, batch))
        made[0] += time.process_time() - start
        yield each

COMMON = " ".join(f"w{number}" for number in range(100))
def texts(rows):
    for begin in range(0, len(rows), 2_000):
        start = time.process_time()
        some = [f"{COMMON.replace('w', f'f{row // 10}w')} {row}" for row in rows[begin : begin + 2_000].tolist()]
        some = pa.array(some)
        made[0] += time.process_time() - start
        yield some

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def search(nodes_, texts_, folder):
    return find_pairs(nodes_, texts_, Settings(), folder)

tiny = Nodes(np.zeros((2, 2), np.uint64), np.ones((2, 14), np.uint64), np.ones(2, np.int32), np.ones(2, np.int64))
with tempfile.TemporaryDirectory() as warm:
    star(2, search([tiny], lambda rows: iter([pa.array(["a b", "a b"])]), Path(warm)), np.arange(2), np.ones(2, bool), 0.8)
base, start = peak(), time.process_time()
made[0] = 0.0
pairs = search(nodes(), texts, folder)
found = time.process_time() - start - made[0]
start = time.process_time()
twin, _ = star(num, pairs, np.arange(num), np.ones(num, bool), 0.8)
decided = time.process_time() - start
print(json.dumps({"nodes": num, "pairs": len(pairs.a), "removed": int((twin >= 0).sum()), "counts": pairs.counts,
    "find_cpu_s": round(found, 2),
    "star_cpu_s": round(decided, 3), "peak_mb": peak() // 1_000_000, "peak_before_mb": base // 1_000_000}))
"""


def main() -> None:
    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(json.loads(timed([PYTHON, "-c", SEARCH, str(size), folder])["stdout"]))
            print(rows[-1], file=sys.stderr)
    more, further = 100_000_000 - SIZES[-1], SIZES[-1] - SIZES[-2]
    inferred = {
        name: round(rows[-1][name] + (rows[-1][name] - rows[-2][name]) / further * more)
        for name in ("find_cpu_s", "star_cpu_s")
    }
    grows = more * (14 / 64 * 44 + 1 + 60 * rows[-1]["pairs"] / SIZES[-1])
    inferred["peak_mb"] = round(max(row["peak_mb"] for row in rows) + grows / 1e6)
    write("curate_near_memory", {"sizes": rows, "inferred_for_100_million": inferred})


if __name__ == "__main__":
    main()
