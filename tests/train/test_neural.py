"""The verb's process: how OpenMP is set before torch is loaded, and what a run tells, end to end on a small dataset."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gyral.train.hardware import Peak
from gyral.train.telling import cost

from ..verbs import gyral

TEXT = "The gyre turns, and what it carries comes back another day. Number {} of many is written here.\n"


@pytest.mark.parametrize(("own", "expected"), [({}, "'0'"), ({"GOMP_SPINCOUNT": "77"}, "'77'")])
def test_openmp_is_told_not_to_spin_before_torch_is_loaded_unless_the_user_says_otherwise(own, expected):
    code = "from gyral.train.neural import be_quiet; be_quiet(); import torch"
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, **own, "OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True
    )
    told = [line.partition("=")[2].strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if done.returncode == 0 and not told:
        pytest.skip("this torch does not use GNU OpenMP")
    assert told == [expected], done.stderr


def test_the_share_of_the_peak_is_work_over_time_over_peak():
    result = SimpleNamespace(
        loss=[1.0] * 90,
        stepped=50,
        stepping_s=10.0,
        flops=2e9,
        ranks=2,
        peak=Peak(20e9, 80e9, 1),
        memory_bytes=5,
        steps=50,
        best_step=50,
    )
    told = cost(result, 100, "f32")
    assert told["units_per_s"] == pytest.approx(500) and told["flop_per_s"] == pytest.approx(10e9)
    assert told["mfu"] == pytest.approx(0.25) and cost(result, 100, "bf16")["mfu"] == pytest.approx(0.0625)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run with a moving average, evaluations, a guard and a trace."""
    root = tmp_path_factory.mktemp("project")
    (root / "pages").mkdir()
    for number in range(40):
        text = "".join(TEXT.format(number * 100 + line) for line in range(12))
        (root / "pages" / f"{number}.txt").write_text(text)
    sizes = ["lm.depth=1", "lm.length=32", "train.batch=8", "train.steps=12", "train.evaluate_every=4", "train.ema=0.9"]
    sizes += ["train.optim.spike=8", "train.optim.name=muon", "train.profile=2", "train.optim.base_width=64"]
    for words in (
        ["curate", "docs", "--source", str(root / "pages"), "--set", "curate.stages=['extract', 'repair', 'digest']"],
        ["train", "docs", "--family", "lm", *(word for size in sizes for word in ("--set", size)), "--json"],
    ):
        done = gyral(*words, "--root", root)
        assert done.returncode == 0, done.stderr
    return root / "runs" / "2", json.loads(done.stdout.splitlines()[-1])


def test_a_run_leaves_its_steps_evaluations_costs_and_trace(run_folder):
    folder, answer = run_folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if line["type"] == "step"] == answer["loss"]
    held_out = [line for line in lines if line["type"] == "held_out"]
    assert [line["step"] for line in held_out] == [4, 8, 12] and len(answer["loss"]) == 12
    assert answer["metrics"]["loss"] == min(line["loss"] for line in held_out)
    best = max(line["step"] for line in held_out if line["is_best"])
    assert answer["best_step"] == best
    hardware = answer["hardware"]
    assert 0 < hardware["mfu"] < 1 and hardware["f32"] > 1e9 and hardware["memory_bytes"] > 50e6
    assert (folder / "trace.json").stat().st_size > 1000
    assert "GFLOP/s" in (folder / "log.txt").read_text()
