"""Rounds of cuts: what is durable when, and a disk that refuses."""

import time

import numpy as np
import pytest

from gyral.errors import ConflictError, GyralError
from gyral.params import cutting
from gyral.params.cutting import Cutter
from gyral.params.held import Entry, Held
from gyral.params.spec import BUCKETS, Optimizer, TableSpec

from . import plain

SPEC = TableSpec("counts", 1, Optimizer(name="sgd", rate=1.0), init="zero")


class Disk:
    def __init__(self):
        self.parts, self.is_full = [], False

    def write(self, part):
        if self.is_full:
            raise GyralError("no space is left")
        self.parts.append(part)


def made(keep, rows=500):
    held, received = Held(plain.Plain(SPEC), np.ones(BUCKETS, np.uint8)), {}
    cutter = Cutter(keep, [held], 1e9, received, dict, bytes)
    push(held, received, 1, rows)
    return held, received, cutter


def push(held, received, seq, rows=500):
    held.push(Entry(0, 3, seq, 0, np.arange(rows), -np.ones((rows, 1), np.float32)), 1.0)
    received[3] = seq


def test_a_push_is_durable_when_the_round_that_began_after_it_ends(monkeypatch):
    monkeypatch.setattr(cutting, "PART_ROWS", 100)
    disk = Disk()
    held, received, cutter = made(disk)
    now = time.monotonic()
    assert cutter.step(now) > 1e6 and disk.parts == []  # no round is due
    cutter.hurry()
    seen = []
    for seq in range(2, 50):
        if cutter.step(now) is None or cutter.durable(3):
            break
        cutter.settle()
        push(held, received, seq)
        seen.append(cutter.durable(3))
    assert len(disk.parts) == 5 and set(seen) == {0}  # 500 rows, 100 a part
    assert cutter.durable(3) == 1  # what was pushed meanwhile is of the next round
    bounds = [(part.first, part.last) for part in disk.parts]
    assert bounds == [(BUCKETS * at // 5, BUCKETS * (at + 1) // 5) for at in range(5)]
    cutter.close()
    assert cutter.durable(3) == received[3]


def test_a_full_disk_loses_nothing_and_is_heard_of(monkeypatch):
    monkeypatch.setattr(cutting, "RETRY_S", 0.01)
    disk = Disk()
    disk.is_full = True
    held, received, cutter = made(disk)
    cutter.hurry()
    end = time.monotonic() + 5
    while "no space" not in cutter.trouble:
        cutter.step(time.monotonic())
        assert time.monotonic() < end
    push(held, received, 2)
    assert cutter.durable(3) == 0 and disk.parts == []
    disk.is_full = False
    while cutter.durable(3) < 1:
        cutter.step(time.monotonic())
        assert time.monotonic() < end
    cutter.close()
    assert cutter.trouble == "" and cutter.durable(3) == 2
    folded = {}
    for part in disk.parts:
        rows = part.changes.upserts
        folded.update(zip(rows.keys.tolist(), rows.bodies.view(np.float32)[:, 0].tolist(), strict=True))
    assert folded == dict.fromkeys(range(500), 2.0)


def test_a_folder_that_another_process_has_ends_the_shard():
    class Taken(Disk):
        def write(self, part):
            raise ConflictError("another process owns it")

    _, _, cutter = made(Taken())
    cutter.hurry()
    end = time.monotonic() + 5
    with pytest.raises(ConflictError):
        while time.monotonic() < end:
            cutter.step(time.monotonic())
    assert cutter.durable(3) == 0


def test_without_a_disk_what_is_applied_is_as_durable_as_it_gets():
    _, received, cutter = made(None)
    assert cutter.durable(3) == 1 and cutter.step(0.0) is None
    received[3] = 9
    assert cutter.durable(3) == 9
    cutter.close()
