"""A short soak: real processes die and stop under traffic, and what was promised is counted from the clients' own ledger."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "benchmarks" / "loop" / "soak.py"


@pytest.mark.alone
@pytest.mark.timeout(280)
def test_nothing_that_was_promised_is_broken_while_processes_die(tmp_path):
    command = [sys.executable, str(SOAK), "--minutes", "0.4", "--seed", "5", "--rate", "4", "--folder", str(tmp_path)]
    command += ["--only", "kill gateway", "kill worker", "kill collector", "kill shard", "roll"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=270, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, (done.stdout + done.stderr)[-3_000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["faults"] >= 1 and told["answered"] > 50 and not told["violations"]
    assert all(each["kept"] for each in told["promises"]) and len(told["promises"]) == 14
    lines = (tmp_path / "runs" / "1" / "faults.jsonl").read_text().splitlines()
    assert [json.loads(each)["recovered_s"] is not None for each in lines] == [True] * told["faults"]
