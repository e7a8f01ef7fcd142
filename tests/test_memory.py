"""Freed memory, asked of the C library itself in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")

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


def test_threads_share_an_arena_a_core():
    def arenas(is_asked, **environment):
        return run(THREADS.format(is_asked=is_asked, count=8 * os.cpu_count()), **environment).stderr.count("Arena ")

    assert arenas(True) <= os.cpu_count() < arenas(False)
    assert arenas(True, MALLOC_ARENA_MAX="5") == 5


def test_what_was_freed_goes_back_to_the_system():
    assert int(run(FREED).stdout) > 50 << 20
