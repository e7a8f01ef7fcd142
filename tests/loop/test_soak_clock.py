"""The clock that a soak moves: seen at once by who goes by it, and by no other clock, sleep or wait."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "soak_clock", Path(__file__).resolve().parents[2] / "benchmarks" / "loop" / "soak_clock.py"
)
soak_clock = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(soak_clock)
CODE = """
import ctypes, datetime, json, queue, sys, threading, time
class Moment(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]
libc, now = ctypes.CDLL(None), Moment()
held, cond, mutex = (ctypes.create_string_buffer(64) for _ in range(3))
libc.sem_init(held, 0, 0)
libc.cnd_init(cond)
libc.mtx_init(mutex, 0)
libc.mtx_lock(mutex)
lock = threading.Lock()
lock.acquire()
def end():
    libc.clock_gettime(0, ctypes.byref(now))
    return ctypes.byref(Moment(now.s + (now.ns >= 900_000_000), (now.ns + 100_000_000) % 1_000_000_000))
waits = (
    lambda: time.sleep(.1), lambda: lock.acquire(timeout=.1), lambda: threading.Event().wait(.1),
    lambda: libc.sem_timedwait(held, end()), lambda: libc.cnd_timedwait(cond, mutex, end()),
)
for line in sys.stdin:
    told = [time.time(), datetime.datetime.now().timestamp(), time.monotonic()]
    for wait in waits:
        began = time.monotonic()
        wait()
        told.append(time.monotonic() - began)
    print(json.dumps(told), flush=True)
"""


@pytest.mark.timeout(60)
def test_a_clock_jumps_and_nothing_else_does(tmp_path):
    library = soak_clock.built(tmp_path)
    if library is None:
        pytest.skip("no C compiler")
    clock = soak_clock.Clock(tmp_path / "clock", library)
    command, environment = [sys.executable, "-c", CODE], {**os.environ, **clock.environment}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        for jump_s in (0, 3_600.25, -172_800, 0):
            clock.set(jump_s)
            child.stdin.write("\n")
            child.stdin.flush()
            wall, day, steady, *waited = json.loads(child.stdout.readline())
            assert wall - time.time() == pytest.approx(jump_s, abs=10) and day == pytest.approx(wall, abs=1)
            assert steady == pytest.approx(time.monotonic(), abs=10)
            assert all(0.09 < each < 5 for each in waited), waited
        child.stdin.close()
    clock.close()
