"""The checkpoint matrix: saved by any layout, loaded by any other, the next three losses are the saver's own.

Each loader begins with a model of another seed, so a tensor that was not loaded would show.
"""

import json
from pathlib import Path

import pytest

from gyral.engine import ranks

from .. import verbs

WORKER = str(Path(__file__).with_name("layouts_worker.py"))
TWO = ["alone", "data2", "shard2", "tensor2", "pipeline2", "interleaved2"]
FOUR = ["shard4", "shard2-tensor2", "data2-shard2", "pipeline2-tensor2"]
TABLES = ["bag", "whole", "rows", "columns", "tables"]


def launch(folder, name, count, *jobs):
    """Some ranks of the worker to their end; what the first one wrote of each job."""
    ranks.launch([WORKER, str(folder), json.dumps(jobs)], count, folder, {"NAME": name}, start=verbs.start)
    return json.loads((folder / f"{name}.json").read_text())


def save(names):
    return ["save", names, []]


def load(names, sources):
    return ["load", names, sources]


def check(saved, loaded, pairs):
    assert len(loaded) == pairs
    for pair, losses in loaded.items():
        own = saved[pair.partition(">")[0]]
        assert max(abs(a - b) for a, b in zip(losses, own, strict=True)) <= 1e-6, pair
        assert min(losses) > 0


def test_two_ranks_load_what_any_of_them_saved(tmp_path):
    """Of whole and cut models, of spread tables, and of tables with what rowwise Adagrad keeps."""
    groups = [["alone", "shard2", "pipeline2"], ["bag", "rows", "tables"], ["bag-rowwise", "columns-rowwise"]]
    jobs = [job for names in groups for job in (save(names), load(names, names))]
    found = launch(tmp_path, "some", 2, *jobs)
    for names, saved, loaded in zip(groups, found[::2], found[1::2], strict=True):
        check(saved, loaded, len(names) ** 2)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_layout_loads_what_every_other_saved(tmp_path):
    """Three launches in all, because to start a rank costs as much as ten pairs."""
    every, rowwise = [*TWO, *FOUR], [f"{name}-rowwise" for name in TABLES]
    tables = [job for names in (TABLES, rowwise) for job in (save(names), load(names, names))]
    of_two, *of_tables = launch(tmp_path, "saving", 2, save(TWO), *tables)
    of_four, by_four = launch(tmp_path, "four", 4, save(FOUR), load(FOUR, every))
    (by_two,) = launch(tmp_path, "loading", 2, load(TWO, every))
    check(of_two | of_four, by_two | by_four, len(every) ** 2)
    for saved, loaded in zip(of_tables[::2], of_tables[1::2], strict=True):
        check(saved, loaded, len(TABLES) ** 2)
