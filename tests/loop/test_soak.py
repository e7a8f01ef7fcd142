"""A short soak: real processes die and stop under traffic, and what was promised is counted from the clients' own ledger.

Two minutes of what `benchmarks/loop/soak.py` does for an hour, with every kind of fault that the machine can do. It waits more
than it computes, so it runs beside other tests; a fault after which all is not well within a minute fails it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "loop" / "soak.py"
LEAST = 6
"""Faults of so many kinds, on a machine that gives the soak a tenth of its time; fifteen on a quiet one."""


@pytest.fixture
def folder(tmp_path):
    """Of one soak; its lakes and logs are not kept."""
    yield tmp_path / "soak"
    shutil.rmtree(tmp_path / "soak", ignore_errors=True)


@pytest.mark.soak
@pytest.mark.timeout(480)
def test_nothing_that_was_promised_is_broken_while_processes_die(folder):
    command = [sys.executable, str(SOAK), "--minutes", "2", "--seed", "5", "--rate", "4", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=450, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stdout, done.stderr[-3_000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert not told["violations"] and done.returncode == 0, (
        json.dumps(told["violations"], indent=1)[:3_000] + done.stderr[-3_000:]
    )
    assert all(each["kept"] for each in told["promises"]) and len(told["promises"]) == 13 and told["answered"] > 200
    faults = [json.loads(line) for line in (folder / "runs" / "1" / "faults.jsonl").read_text().splitlines()]
    assert len(faults) == told["faults"] and len({each["kind"] for each in faults}) >= LEAST
    assert all(each["recovered_s"] is not None for each in faults)
