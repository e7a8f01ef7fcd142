"""Memory is what the system counts; what was freed is asked of the C library, in processes of their own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gyral.memory import peak_bytes, resident_bytes

asks_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
SIZE = 96 << 20
SLACK = 24 << 20

THREADS = """
import ctypes, threading
from gyral.memory import few_arenas
if {is_asked}:
    few_arenas()
libc, barrier = ctypes.CDLL(None), threading.Barrier({count})
libc.malloc.restype = ctypes.c_void_p
def work():
    libc.malloc(5_000)
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range({count})]
[each.start() for each in threads], [each.join() for each in threads]
libc.malloc_stats()
"""
FREED = """
import ctypes
from gyral.memory import give_back
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
held = [libc.malloc(64_000) for _ in range(1_000)]
[ctypes.memset(each, 1, 64_000) for each in held]
last = held.pop()
[libc.free(each) for each in held]
before = resident()
give_back()
print(before - resident())
"""


def run(code, **environment):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done


@asks_glibc
def test_threads_share_an_arena_a_core():
    def arenas(is_asked, **environment):
        return run(THREADS.format(is_asked=is_asked, count=8 * os.cpu_count()), **environment).stderr.count("Arena ")

    assert arenas(True) <= os.cpu_count() < arenas(False)
    assert arenas(True, MALLOC_ARENA_MAX="5") == 5


@asks_glibc
def test_what_was_freed_goes_back_to_the_system():
    assert int(run(FREED).stdout) > 50 << 20


def told(line):
    return int(Path("/proc/self/status").read_text().split(f"{line}:")[1].split()[0]) * 1024


def test_what_is_held_counts_while_it_is_held_and_the_peak_stays():
    before = resident_bytes(settled=True)
    held = np.ones(SIZE, np.uint8)
    assert abs(resident_bytes() - before - SIZE) < SLACK and abs(resident_bytes() - told("VmRSS")) < SLACK
    del held
    assert abs(resident_bytes(settled=True) - before) < SLACK
    assert peak_bytes() >= before + SIZE - SLACK and abs(peak_bytes() - told("VmHWM")) < SLACK


def test_what_was_freed_is_given_back_before_a_difference_is_taken():
    before = resident_bytes(settled=True)
    blocks = [bytes(1_000) for _ in range(SIZE // 1_000)]  # small ones, which the allocator keeps
    assert resident_bytes() - before > SIZE // 2
    pins = blocks[::1_000]  # without which the end of the heap is given back by itself
    del blocks
    assert resident_bytes(settled=True) - before < SLACK and len(pins) > 9


def test_without_proc_both_are_the_peak_of_the_system(monkeypatch):
    def absent(*_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert resident_bytes() == peak_bytes() > SLACK
