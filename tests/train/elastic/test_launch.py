"""Runs of members started as a user does: by the verb, and by torchrun; members are killed meanwhile."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ... import verbs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = ["lm.depth=1", "lm.width=32", "lm.length=32", "train.batch=8", "train.steps=60"]
LEAVES = ["train.elastic.leaves=8"]


def gyral(root, *words):
    return verbs.gyral(*words, "--root", root, timeout=290, **verbs.STARTED)  # the ranks have command lines of their own


def trained(root, parallel, *words):
    leaves = LEAVES if parallel.startswith("elastic") else []
    sets = [word for size in [*SIZES, *leaves, *words] for word in ("--set", size)]
    done = gyral(root, "train", "docs", "--family", "lm", *sets, "--parallel", parallel, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    weights = root / "models" / result["model"] / "weights.safetensors"
    return result, hashlib.sha256(weights.read_bytes()).hexdigest(), done.stderr


def ranks_of(folder):
    """Process ids of the members of a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"gyral.train.rank" in words and str(folder).encode() in b" ".join(words):
            found.append(int(path.parent.name))
    return found


class Killer(threading.Thread):
    """Kills a member each time the newest run's ledger has come some steps further."""

    def __init__(self, root, at):
        super().__init__(daemon=True)
        self.root, self.at, self.kills = root, at, 0
        self.before = set((root / "runs").iterdir())

    def run(self):
        end = time.monotonic() + 300
        while self.at and time.monotonic() < end:
            time.sleep(0.02)
            for folder in set((self.root / "runs").iterdir()) - self.before:
                ledger = folder / "ledger.jsonl"
                if ledger.exists() and ledger.read_bytes().count(b"\n") >= self.at[0] and (pids := ranks_of(folder)):
                    self.at.pop(0)
                    self.kills += 1
                    os.kill(pids[0], signal.SIGKILL)


def test_the_verb_trains_one_model_whatever_happens_to_its_members(written):
    alone, _, _ = trained(written, "")
    one, sha, _ = trained(written, "elastic=1")
    killer = Killer(written, [10])
    killer.start()
    two, other, told = trained(written, "elastic=2")
    assert sha == other and killer.kills == 1
    assert "SIGKILL and is started again" in told
    assert one["loss"] == two["loss"] and len(two["loss"]) == 60
    assert max(abs(a - b) for a, b in zip(alone["loss"], two["loss"], strict=True)) <= 1e-5
    assert two["metrics"]["bits_per_byte"] == one["metrics"]["bits_per_byte"]


@pytest.mark.ray
def test_ray_places_the_same_members(written):
    pytest.importorskip("ray")
    one, sha, _ = trained(written, "elastic=1", "train.steps=12")
    two, other, _ = trained(written, "elastic=2", "train.steps=12", "on=ray://workers=2")
    assert sha == other and one["loss"] == two["loss"] and two["ranks"] == 2


def test_an_error_that_all_would_have_is_told_at_once(written):
    done = gyral(written, "train", "docs", "--family", "lm", "--parallel", "elastic=2", "--set", "train.batch=4",
                 "--set", "train.elastic.leaves=8", "--set", "train.steps=2")  # fmt: skip
    assert done.returncode == 1 and "has no 8 leaves" in done.stderr and "lower `train.elastic.leaves`" in done.stderr


@pytest.fixture(scope="module")
def alone(written):
    """Losses of 12 steps by one process."""
    return trained(written, "", "train.steps=12")[0]["loss"]


@pytest.mark.parametrize("parallel", ["data=2", "elastic=2"])
def test_torchrun_starts_a_fixed_set(written, alone, tmp_path, parallel):
    import msgspec

    from gyral import config as configs
    from gyral.train.rank import Job

    sets = [*SIZES, *LEAVES, "train.family=lm", f"train.parallel={parallel}", "train.steps=12"]
    job = Job(str(written), "docs", str(tmp_path), 12, configs.load(written, sets))
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(job))
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "-m", "gyral.train.rank", str(tmp_path / "job.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_bytes())
    assert max(abs(a - b) for a, b in zip(alone, result["loss"], strict=True)) <= 2e-6
