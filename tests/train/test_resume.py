"""Going on with a training that was killed: by other ranks, each step learned once, and refused where it is not the same."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from gyral import config as configs
from gyral.errors import InputError, NotFound, UsageError
from gyral.run import Run
from gyral.train import resume, saved

from .. import verbs

TEXT = "The gyre turns, and what it carries comes back another day. Number {} of many is written here.\n"
RULES = ["--set", "curate.stages=['extract', 'repair', 'digest']"]
SIZES = ["lm.depth=1", "lm.width=32", "lm.length=32", "train.batch=8", "train.steps=12", "train.checkpoint_every=3"]
SETS = [word for size in SIZES for word in ("--set", size)]


def gyral(root, *words, fault="", ok=True):
    done = verbs.gyral(*words, "--root", root, GYRAL_FAULT=fault)
    assert not ok or done.returncode == 0, done.stderr
    return done


def curate(root):
    return gyral(root, "curate", "docs", "--source", str(root / "pages"), *RULES, "--json")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A project with a whole training of 12 steps, run 2, and one killed while it published its third checkpoint, run 3."""
    root = tmp_path_factory.mktemp("project")
    (root / "pages").mkdir()
    for number in range(60):
        (root / "pages" / f"{number}.txt").write_text("".join(TEXT.format(number * 100 + line) for line in range(12)))
    curate(root)
    whole = gyral(root, "train", "docs", "--family", "lm", *SETS, "--json")
    done = gyral(root, "train", "docs", "--family", "lm", *SETS, fault="checkpoint.publish:3", ok=False)
    assert done.returncode == -signal.SIGKILL
    return root, json.loads(whole.stdout.splitlines()[-1])


def ledger(root, run):
    return [json.loads(line) for line in (root / "runs" / str(run) / "ledger.jsonl").read_text().splitlines()]


def test_two_ranks_go_on_where_one_was_killed(killed):
    root, whole = killed
    assert saved.newest(root / "runs" / "3").manifest.step == 6
    assert any(path.name.endswith(".tmp") for path in (root / "runs" / "3" / "checkpoints").iterdir())
    done = gyral(root, "train", "--resume", "3", "--parallel", "data=2", "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ranks"] == 2 and result["steps"] == 12
    assert max(abs(a - b) for a, b in zip(result["loss"], whole["loss"], strict=True)) <= 1e-6
    lines = ledger(root, 4)
    assert [line["step"] for line in lines] == list(range(12))  # each once, though run 3 did some after its checkpoint
    assert [line["first"] for line in lines] == [8 * step for step in range(12)]
    assert [line["members"] for line in lines] == [1] * 6 + [2] * 6
    assert len(ledger(root, 3)) > 6
    steps = [json.loads(line) for line in (root / "runs" / "4" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["type"] == "step"] == list(range(12))
    assert "after step 6 of 12" in done.stderr


def test_the_same_command_with_resume_is_enough_and_a_resumed_run_can_be_resumed(killed):
    root, whole = killed
    words = ["train", "docs", "--family", "lm", *SETS, "--resume", "3"]
    assert gyral(root, *words, fault="checkpoint.written:1", ok=False).returncode == -signal.SIGKILL
    run = max(int(name) for name in os.listdir(root / "runs"))
    assert saved.newest(root / "runs" / str(run)).manifest.step == 6  # its own had not been published
    done = gyral(root, *words[:-1], str(run), "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["loss"] == whole["loss"]


@pytest.mark.slow
def test_a_killed_rank_ends_with_the_line_that_goes_on(killed):
    root, whole = killed
    words = ["train", "docs", "--family", "lm", *SETS, "--parallel", "data=2"]
    done = gyral(root, *words, fault="checkpoint.publish:2", ok=False)
    run = max(int(name) for name in os.listdir(root / "runs"))
    assert done.returncode == 1 and f"gyral train --resume {run}" in done.stderr and "SIGKILL" in done.stderr
    result = json.loads(gyral(root, "train", "--resume", str(run), "--parallel", "", "--json").stdout.splitlines()[-1])
    assert result["ranks"] == 1
    assert max(abs(a - b) for a, b in zip(result["loss"], whole["loss"], strict=True)) <= 1e-6


def adopt(root, sets=(), dataset="", run=3, **flags):
    """What `gyral train DATASET --resume RUN --set …` does before it trains."""
    config = configs.load(root, sets, flags, resume.settings_of(root, run))
    with Run.start(root, "train", config) as made:
        return resume.adopt(root, run, dataset, config, made)


@pytest.mark.parametrize(
    ("sets", "dataset", "told"),
    [
        (["train.batch=4"], "", "`train.batch` was 8 and is 4"),
        (["train.optim.rate=0.1"], "", "`train.optim.rate` was 0.001 and is 0.1"),
        (["lm.depth=2"], "", "`lm.depth` was 1 and is 2"),
        (["train.steps=20"], "", "`train.steps` was 12 and is 20"),
        (["train.seed=4"], "", "`train.seed` was 0 and is 4"),
        ([], "other", "learned from `docs@1`, not from `other`"),
        ([], "docs@7", "learned from `docs@1`, not from `docs@7`"),
    ],
)
def test_what_would_change_what_is_learned_is_refused(killed, sets, dataset, told):
    with pytest.raises(UsageError) as caught:
        adopt(killed[0], sets, dataset)
    assert told in str(caught.value) and "gyral train" in caught.value.hint


def test_what_only_changes_who_computes_is_free(killed):
    assert [resume.is_about(name, "recommender") for name in ("train", "recommend", "lm", "")] == [True, True, False, False]
    free = [
        "train.parallel=data=2",
        "train.sharding=states",
        "train.microbatch=2",
        "train.checkpoint_every=5",
        "train.keep_checkpoints=9",
    ]
    assert adopt(killed[0], free) == "docs@1"


def test_runs_that_have_nothing_to_go_on_from_are_refused(killed):
    root = killed[0]
    with pytest.raises(NotFound, match="no training"):
        adopt(root, run=1)
    with pytest.raises(NotFound, match="there is no run 99"):
        adopt(root, run=99)
    done = gyral(root, "train", ok=False)
    assert done.returncode == 2 and "no dataset is named" in done.stderr


def test_a_dataset_that_changed_is_refused_and_a_newer_version_is_not_used(killed):
    root = killed[0]
    shutil.copytree(root / "datasets" / "docs@1", root / "datasets" / "docs@2")
    assert adopt(root, dataset="docs") == "docs@1"
    path = root / "datasets" / "docs@1" / "manifest.json"
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"rows_in"', b'"rows_in" '))
    try:
        with pytest.raises(UsageError, match="`docs@1` has changed"):
            adopt(root)
    finally:
        path.write_bytes(text)
        shutil.rmtree(root / "datasets" / "docs@2")


def test_a_rank_of_another_version_refuses_with_both(killed, tmp_path):
    root = killed[0]
    run = next(path.parent for path in root.glob("runs/*/job.json"))  # of two ranks
    job = json.loads((run / "job.json").read_text())
    here = job["versions"]["torch"]
    job["versions"]["torch"] = "2.99.0"
    (tmp_path / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-P", "-m", "gyral.train.rank", str(tmp_path / "job.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60,
        env={**os.environ, "RANK": "0", "WORLD_SIZE": "1"},
    )  # fmt: skip
    assert done.returncode == 2 and f"torch {here} here, 2.99.0 there" in done.stderr


def test_a_ledger_that_lacks_a_step_is_no_way_to_go_on(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"step":0}\n{"step":1}\n{"step":2}\n{"st')
    assert len(saved.ledger_until(path, 2)) == 2 and len(saved.ledger_until(path, 3)) == 3
    with pytest.raises(InputError, match="each step once"):
        saved.ledger_until(path, 4)
    path.write_bytes(b'{"step":0}\n{"step":0}\n{"step":1}\n')
    with pytest.raises(InputError, match="each step once"):
        saved.ledger_until(path, 2)


@pytest.mark.slow
def test_a_run_whose_steps_are_all_done_is_measured_and_published(killed):
    root, whole = killed
    result = json.loads(gyral(root, "train", "--resume", "2", "--json").stdout.splitlines()[-1])
    assert result["loss"] == whole["loss"] and result["metrics"] == whole["metrics"]
    assert result["hardware"]["units_per_s"] == 0  # none of its own
