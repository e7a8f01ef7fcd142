"""Resuming in the middle of the data: how long, with how much state, and are the remaining examples exact by other workers?

Claim (T5): at a billion examples ours resumes in < 50 ms with ≤ 1 kB of state, and the remaining ids are exact with any number
of workers. Predicted before the first run: ours 1 ms and 60 bytes; torchdata's `StatefulDataLoader` draws its whole permutation
anew (10 s and 8 GB at a billion, so it is run at 10 million: .5 s), and with another number of workers refuses or repeats;
webdataset has no state, so what was seen is read and dropped.

    .venv/bin/python benchmarks/train/position.py

CPU seconds of one process from nothing but the state to the first batch, medians of 5; the peers lie in an environment of their
own and borrow this one's torch and numpy.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import measure

BATCH, TIMES = 32, 5
PEERS = ["--no-deps", "torchdata==0.11.0", "webdataset==1.0.2", "braceexpand==0.1.7"]


def ours(num_rows: int) -> dict[str, Any]:
    """Our order: the state is what it is made of, and the step."""
    import numpy as np

    from gyral.train.loader import Order, Part

    taken, exact = [], []
    for number in range(TIMES + 1):
        step = (number + 1) * 7_919 % (num_rows // BATCH - 4)
        state = json.dumps({"num_rows": num_rows, "batch": BATCH, "seed": 3, "step": step})
        begun = time.process_time()
        words = json.loads(state)
        at = words.pop("step")
        order = Order(**words)
        first = order.examples(at)
        taken.append(time.process_time() - begun)
        straight = [Order(num_rows, BATCH, 3).examples(step + each) for each in range(3)]
        for workers in (1, 2, 3, 5):
            parts = [Part(index, workers).cut(BATCH) for index in range(workers)]
            again = [np.concatenate([order.examples(at + each)[low:high] for low, high in parts]) for each in range(3)]
            exact.append(all(np.array_equal(a, b) for a, b in zip(straight, again, strict=True)) and len(first) == BATCH)
    return {
        "rows": num_rows,
        "resume_cpu_s": statistics.median(taken[1:]),
        "state_bytes": len(state),
        "exact_other_workers": all(exact),
    }


def torchdata(num_rows: int) -> dict[str, Any]:
    """`StatefulDataLoader` over a map-style dataset, shuffled, as its documentation does it."""
    import pickle

    import torch
    from torchdata.stateful_dataloader import StatefulDataLoader

    class Ids(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return num_rows

        def __getitem__(self, index: int) -> int:
            return index

    def loader(workers: int) -> Any:
        made = torch.Generator().manual_seed(3)
        return StatefulDataLoader(Ids(), BATCH, shuffle=True, generator=made, num_workers=workers)

    first = loader(0)
    walked = iter(first)
    for _ in range(100):
        next(walked)
    state = first.state_dict()
    expected = next(walked).tolist()
    taken, exact = [], True
    for _ in range(TIMES):
        begun = time.process_time()
        again = loader(0)
        again.load_state_dict(state)
        exact &= next(iter(again)).tolist() == expected
        taken.append(time.process_time() - begun)
    try:
        other = loader(2)
        other.load_state_dict(state)
        told: Any = next(iter(other)).tolist() == expected
    except Exception as error:
        told = f"{type(error).__name__}: {str(error)[:120]}"
    return {
        "rows": num_rows, "resume_cpu_s": statistics.median(taken), "state_bytes": len(pickle.dumps(state)),
        "exact_same": exact, "exact_other_workers": told,
    }  # fmt: skip


def webdataset(num_rows: int) -> dict[str, Any]:
    """A tar of small texts: half is read and dropped, because there is no position to set."""
    import webdataset as wds

    with tempfile.TemporaryDirectory() as place:
        with wds.TarWriter(f"{place}/0.tar") as writer:
            for number in range(num_rows):
                writer.write({"__key__": f"{number:08d}", "txt": str(number)})
        pipeline = wds.WebDataset(f"{place}/0.tar", shardshuffle=False).shuffle(2000, seed=3)
        begun = time.process_time()
        for at, _ in enumerate(pipeline):
            if at == num_rows // 2:
                break
        taken = time.process_time() - begun
    has_state = hasattr(pipeline, "state_dict")
    return {"rows": num_rows, "resume_cpu_s": taken, "state_bytes": None, "has_state": has_state, "exact_other_workers": False}


def main() -> None:
    """Everybody in processes of their own."""
    python = measure.peer("position", PEERS)
    site = next(Path(measure.PYTHON).parents[1].glob("lib/python3*/site-packages"))
    peers = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    result = {}
    for name, rows, command, environment in (
        ("ours_1e9", 10**9, measure.PYTHON, {**os.environ, "OMP_NUM_THREADS": "1"}),
        ("ours_1e7", 10**7, measure.PYTHON, {**os.environ, "OMP_NUM_THREADS": "1"}),
        ("torchdata", 10**7, python, peers),
        ("webdataset", 20_000, python, peers),
    ):
        words = [command, __file__, name.partition("_")[0], str(rows)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=500)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        result[name] = json.loads(done.stdout.splitlines()[-1])
    measure.write("train_position", result)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps({"ours": ours, "torchdata": torchdata, "webdataset": webdataset}[sys.argv[1]](int(sys.argv[2]))))
    else:
        main()
