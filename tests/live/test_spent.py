"""What each process of a live loop took, also when one is killed and started again."""

import subprocess
import sys
import time

import pytest

from gyral.live.spent import PARTS, Spent

BUSY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdin=subprocess.PIPE) if len(sys.argv) > 2 else None
while time.process_time() < float(sys.argv[1]):
    pass
print("done", flush=True)
sys.stdin.read()
"""
SLOW = "import time\nwhile time.process_time() < 0.4:\n    pass\nimport sys\nsys.stdin.read()"


def busy(*words):
    process = subprocess.Popen([sys.executable, "-c", BUSY, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"done\n"
    return process


def test_parts_are_their_processes_and_a_dead_one_stays_counted():
    spent, before = Spent(), time.process_time()
    learner, server = busy("0.3", SLOW), busy("0.2")
    try:
        until = time.monotonic() + 20
        while spent.told()["shards"] < 0.35 and time.monotonic() < until:
            spent.look(server.pid, learner.pid)
        first = spent.told()
        assert set(first) == set(PARTS) and first["population"] >= round(before, 2)
        assert first["server"] == pytest.approx(0.2, abs=0.1) and first["learner"] == pytest.approx(0.3, abs=0.1)
        assert first["shards"] >= 0.35, "what the learner started"
        learner.kill()
        learner.communicate()
        spent.look(server.pid, 0)
        assert spent.told()["learner"] == first["learner"]
        learner = busy("0.1")
        spent.look(server.pid, learner.pid)
        assert spent.told()["learner"] == pytest.approx(first["learner"] + 0.1, abs=0.08)
        spent.said("learner", 5.0)
        assert spent.told()["learner"] == pytest.approx(first["learner"] + 5.0, abs=0.02)
    finally:
        for each in (learner, server):
            each.kill()
            each.communicate()
