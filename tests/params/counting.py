"""A worker that counts: push number `seq` adds 1 to keys that follow from (worker, seq). A program, which may be killed."""

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from gyral.files import write_atomic
from gyral.params import client
from gyral.params.shard import Settings
from gyral.params.spec import Optimizer, TableSpec

SPECS = [TableSpec("counts", 1, Optimizer(name="sgd", rate=1.0), init="zero"), TableSpec("others", 2, init="zero")]
KEYS, PUSHED = 3000, 300


def keys_of(worker, seq):
    return np.random.default_rng([worker, seq]).integers(0, KEYS, PUSHED)


def expected(workers, num):
    """What every key must have been counted."""
    total = Counter()
    for worker in range(workers):
        for seq in range(1, num + 1):
            total.update(keys_of(worker, seq).tolist())
    return np.array([total[key] for key in range(KEYS)])


def count(joined, num, note=lambda done: None, pause_s=0.0):
    """Push what is left to push, now and then noting what is durable; `ssp` as the client has it."""
    counts = joined.table("counts")
    while joined.seq < num:
        if joined.seq % 3 == 0:
            counts.pull(np.arange(50))
        counts.push_async(keys_of(joined.worker, joined.seq + 1), -np.ones((PUSHED, 1), np.float32))
        joined.tick()
        if joined.seq % 10 == 0:
            note(joined.durable_seq)
        time.sleep(pause_s)
    joined.flush()
    note(joined.durable_seq)


def main():
    address, worker, sync, folder, num, pause_s = sys.argv[1:]
    path = Path(folder) / f"worker{worker}"
    done = int(path.read_text()) if path.exists() else 0
    settings = Settings(sync=sync, workers=2, lease_s=3.0)
    options = {"seq": done, "timeout_s": 60.0, "settings": settings, "worker": int(worker)}
    with client.open(address, SPECS, **options) as joined:
        count(joined, int(num), lambda seq: write_atomic(path, str(seq)), float(pause_s))


if __name__ == "__main__":
    main()
