"""A shard that is killed is followed by the spare, a process that has started already."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gyral.params import client
from gyral.params.channels import proc
from gyral.params.shard import Settings
from gyral.params.spec import TableSpec

SPECS = [TableSpec("items", 3), TableSpec("seen", 1, dtype="int8", admit_count=2)]


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def waiting(folder, transport):
    """The spare, once it waits."""
    spare, log = transport._spare, folder / "spare.log"
    return spare.pid if spare is not None and f"process {spare.pid} waits" in log.read_text() else None


@pytest.mark.timeout(150)
def test_a_killed_shard_is_followed_by_the_spare_and_that_by_another_one(tmp_path, monkeypatch):
    monkeypatch.setattr(proc, "SPARE_S", 0.0)
    keys, grads = np.arange(50), np.ones((50, 3), np.float32)
    with client.open("proc://2", SPECS, folder=tmp_path, settings=Settings(workers=1, cut_s=0.05)) as one:
        items = one.table("items")
        items.push(keys, grads)
        one.flush()
        expected = items.pull(keys)[0]
        for victim in (1, 0):
            ready = until(lambda: waiting(tmp_path, one.transport))
            os.kill(one.transport.processes[victim].pid, signal.SIGKILL)
            until(lambda victim=victim, ready=ready: one.transport.processes[victim].pid == ready)
            assert np.array_equal(items.pull(keys)[0], expected)
        assert one.transport.deaths == [1, 1]
    assert (tmp_path / "shard0.log").read_text().count("serves at") == 2


@pytest.mark.timeout(120)
def test_a_spare_ends_with_whoever_started_it(tmp_path):
    told = f"""
import time
from pathlib import Path
from gyral.params import client
from gyral.params.channels import proc
from gyral.params.spec import TableSpec
proc.SPARE_S = 0.0
one = client.open("proc://1", [TableSpec("items", 3)], folder=Path({str(tmp_path)!r}))
while one.transport._spare is None:
    time.sleep(0.02)
print(one.transport._spare.pid, flush=True)
time.sleep(100)
"""
    owner = subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True)
    spare = Path(f"/proc/{int(owner.stdout.readline())}")
    assert spare.exists()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    until(lambda: not spare.exists())
