"""Trainings by workers of a parameter server, as processes of their own that are killed: what is learned, and how often."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from gyral.model import card as cards
from gyral.model.card import read_weights
from gyral.params.carried import unpacked
from gyral.params.parcel import Packed

STEPS = 40
SIZES = ["lm.depth=1", "lm.width=32", "lm.heads=2", "lm.length=32", "train.batch=8", "train.server.cut_s=0.5"]
SETS = [*SIZES, f"train.steps={STEPS}", "train.checkpoint_every=10"]


def started(root, *words):
    sets = [word for each in SETS for word in ("--set", each)]
    command = [sys.executable, "-P", "-m", "gyral", "train", *words, *sets, "--root", str(root), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def run_of(root):
    return max((each for each in (root / "runs").iterdir() if each.name.isdigit()), key=lambda each: int(each.name))


def processes(parent, words):
    """Children of a process whose command line has these words, by rank."""
    found = {}
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        command = Path(f"/proc/{pid}/cmdline").read_text()
        if words in command and "--spare" not in command:
            environment = dict(each.partition("=")[::2] for each in Path(f"/proc/{pid}/environ").read_text().split("\0"))
            found[int(environment.get("RANK", len(found)))] = int(pid)
    return found


def wait_for(what, process, timeout_s=120):
    end = time.monotonic() + timeout_s
    while not what():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.005)  # who is to be killed goes on meanwhile


def steps_in(folder):
    path = folder / "ledger.jsonl"
    return [json.loads(line)["step"] for line in path.read_bytes().splitlines()] if path.exists() else []


def pushes_applied(folder, step):
    """Steps that Adam counted in each row of each dense table of a checkpoint."""
    arrays = load_file(folder / "checkpoints" / str(step) / "rank0.safetensors")
    counts = []
    for name, blob in arrays.items():
        if name.partition("@")[0].startswith("strategy.tables.dense"):
            for body in unpacked(blob.tobytes()):
                for bucket in msgspec.msgpack.decode(body, type=list[Packed]):
                    num = len(bucket.keys) // 8
                    rows = np.frombuffer(bucket.bodies, np.uint8).reshape(num, -1)
                    counts += np.ascontiguousarray(rows[:, :4]).view(np.float32)[:, 0].tolist()
    return counts


@pytest.mark.slow
def test_async_workers_and_a_shard_are_killed_and_each_step_counts_once(written):
    process = started(written, "docs", "--family", "lm", "--sync", "async", "--parallel", "data=2")
    wait_for(lambda: (written / "runs").is_dir() and len(steps_in(run_of(written))) >= 8, process)
    folder = run_of(written)
    os.kill(processes(process.pid, "gyral.train.rank")[1], signal.SIGKILL)
    wait_for(lambda: len(steps_in(folder)) >= 14, process)
    os.kill(processes(process.pid, "gyral.params.serve")[0], signal.SIGKILL)
    wait_for(lambda: len(steps_in(folder)) >= 20, process)
    os.kill(processes(process.pid, "gyral.train.rank")[0], signal.SIGKILL)
    told = ended(process)
    assert told["steps"] == STEPS and len(told["loss"]) == STEPS and steps_in(folder) == list(range(STEPS))
    assert told["loss"][-1] < told["loss"][0] - 0.3 and told["server"]["sync"] == "async"
    counts = pushes_applied(folder, STEPS)
    assert len(counts) > 20 and set(counts) == {2.0 * STEPS}


@pytest.mark.slow
def test_a_killed_bsp_run_goes_on_with_the_same_bits_and_outlives_a_shard(written):
    words = ("docs", "--family", "lm", "--sync", "bsp", "--parallel", "data=2")
    whole = ended(started(written, *words))
    process = started(written, *words)
    folder = [None]

    def has_checkpoint():
        folder[0] = run_of(written)
        return len(steps_in(folder[0])) >= 15 and (folder[0] / "checkpoints" / "10" / "manifest.json").exists()

    wait_for(has_checkpoint, process)
    shard = processes(process.pid, "gyral.params.serve")[0]
    for pid in [*processes(process.pid, "gyral.train.rank").values(), process.pid, shard]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    process = started(written, "--resume", folder[0].name, "--set", "train.server.at=proc://2")
    wait_for(lambda: run_of(written) != folder[0] and len(steps_in(run_of(written))) >= 22, process)
    os.kill(processes(process.pid, "gyral.params.serve")[0], signal.SIGKILL)  # a shard comes back from its folder
    again = ended(process)
    assert again["loss"] == whole["loss"]
    one, two = (read_weights(cards.find(written, each["model"])).arrays for each in (whole, again))
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
