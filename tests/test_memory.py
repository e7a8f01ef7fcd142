"""Memory is what the system counts, and what a process holds."""

from pathlib import Path

import numpy as np

from gyral.memory import peak_bytes, resident_bytes

SIZE = 96 << 20
SLACK = 24 << 20


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
