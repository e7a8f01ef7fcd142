"""The checkpoint matrix: saved by any layout, loaded by any other, the next three losses are the saver's own.

Each loader begins with a model of another seed, so a tensor that was not loaded would show.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("layouts_worker.py")
TWO = ["alone", "data2", "shard2", "tensor2", "pipeline2", "interleaved2"]
FOUR = ["shard4", "shard2-tensor2", "data2-shard2", "pipeline2-tensor2"]
TABLES = ["bag", "whole", "rows", "columns", "tables"]


def launch(folder, count, *words):
    """Some ranks of the worker to their end; what the first one wrote."""
    environment = {**os.environ, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    logs = [folder / f"{words[0]}-{count}-{rank}.log" for rank in range(count)]
    ranks = []
    for rank, log in enumerate(logs):
        with open(log, "wb") as file:
            command = [sys.executable, "-P", str(WORKER), str(folder), *words]
            ranks.append(subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=file, stderr=file))
    try:
        assert [rank.wait(900) for rank in ranks] == [0] * count, "\n".join(log.read_text()[-1500:] for log in logs)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return json.loads((folder / f"{words[0]}-{count}.json").read_text())


def check(saved, loaded, pairs):
    assert len(loaded) == pairs
    for pair, losses in loaded.items():
        own = saved[pair.partition(">")[0]]
        assert max(abs(a - b) for a, b in zip(losses, own, strict=True)) <= 1e-6, pair
        assert min(losses) > 0


def test_two_ranks_and_one_load_what_either_saved(tmp_path):
    names = "alone,shard2,pipeline2"
    saved = launch(tmp_path, 2, "save", names)
    check(saved, launch(tmp_path, 2, "load", names, names), 9)


def test_spread_tables_are_loaded_in_any_other_layout(tmp_path):
    names = "bag,rows,tables"
    saved = launch(tmp_path, 2, "save", names)
    check(saved, launch(tmp_path, 2, "load", names, names), 9)


def test_what_rowwise_adagrad_keeps_is_loaded_in_any_other_layout_of_tables(tmp_path):
    names = "bag-rowwise,columns-rowwise"
    saved = launch(tmp_path, 2, "save", names)
    check(saved, launch(tmp_path, 2, "load", names, names), 4)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_layout_loads_what_every_other_saved(tmp_path):
    every = ",".join([*TWO, *FOUR])
    saved = launch(tmp_path, 2, "save", ",".join(TWO)) | launch(tmp_path, 4, "save", ",".join(FOUR))
    loaded = launch(tmp_path, 2, "load", ",".join(TWO), every) | launch(tmp_path, 4, "load", ",".join(FOUR), every)
    check(saved, loaded, (len(TWO) + len(FOUR)) ** 2)
    names = ",".join(TABLES)
    folder = tmp_path / "tables"
    folder.mkdir()
    saved = launch(folder, 2, "save", names)
    check(saved, launch(folder, 2, "load", names, names), len(TABLES) ** 2)
    names = ",".join(f"{name}-rowwise" for name in TABLES)
    folder = tmp_path / "rowwise"
    folder.mkdir()
    saved = launch(folder, 2, "save", names)
    check(saved, launch(folder, 2, "load", names, names), len(TABLES) ** 2)
