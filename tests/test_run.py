import os
import signal
import subprocess
import sys

import pytest

from gyral.config import Config
from gyral.errors import InputError, NotFound
from gyral.run import Run, numbers, read_lineage, read_metrics


def test_a_run_keeps_its_lineage_metrics_and_status(tmp_path):
    with Run.start(tmp_path, "curate", Config(), seed=3) as run:
        run.reads("lake", "events", 7)
        run.writes("dataset", "shop@1")
        run.summarize(rows_in=10)
        run.metric(loss=1.5)
        run.meter("rows", 10).update(10)
    lineage = read_lineage(tmp_path, 1)
    assert (lineage.verb, lineage.status, lineage.seed, lineage.summary) == ("curate", "done", 3, {"rows_in": 10})
    assert [(each.kind, each.name, each.version) for each in lineage.inputs] == [("lake", "events", "7")]
    kinds = [line["type"] for line in read_metrics(tmp_path, 1)]
    assert kinds == ["metric", "progress"]


def test_a_failed_run_keeps_its_error_in_four_parts(tmp_path):
    with pytest.raises(InputError), Run.start(tmp_path, "ingest", Config()):
        raise InputError("bad", why="because", where="here", hint="mend it")
    lineage = read_lineage(tmp_path, 1)
    assert lineage.status == "failed"
    assert lineage.error == {"what": "bad", "why": "because", "where": "here", "hint": "mend it"}


def test_an_interrupted_run_says_so(tmp_path):
    with pytest.raises(KeyboardInterrupt), Run.start(tmp_path, "train", Config()):
        raise KeyboardInterrupt
    assert read_lineage(tmp_path, 1).status == "interrupted"


def test_a_killed_run_is_told_from_a_running_one(tmp_path):
    code = (
        "import sys, pathlib, time\nfrom gyral.run import Run\nfrom gyral.config import Config\n"
        "run = Run.start(pathlib.Path(sys.argv[1]), 'train', Config())\nprint('up', flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"up\n"
        assert read_lineage(tmp_path, 1).status == "running"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert read_lineage(tmp_path, 1).status == "killed"


def test_a_torn_metrics_line_is_left_out(tmp_path):
    with Run.start(tmp_path, "x", Config()) as run:
        run.metric(a=1)
    with open(tmp_path / "runs/1/metrics.jsonl", "ab") as file:
        file.write(b'{"type": "metr')
    assert len(read_metrics(tmp_path, 1)) == 1


def test_children_name_their_parent_and_numbers_are_unique(tmp_path):
    with (
        Run.start(tmp_path, "loop", Config()) as parent,
        Run.start(tmp_path, "train", Config(), parent=parent) as child,
    ):
        assert child.number == 2
    assert read_lineage(tmp_path, 2).parent == 1
    assert numbers(tmp_path) == [1, 2]
    with pytest.raises(NotFound):
        read_lineage(tmp_path, 9)


def test_a_damaged_record_is_not_called_missing(tmp_path):
    with Run.start(tmp_path, "train", Config()):
        pass
    (tmp_path / "runs/1/lineage.json").write_text("{")
    with pytest.raises(NotFound, match="the record of run 1 is damaged"):
        read_lineage(tmp_path, 1)
