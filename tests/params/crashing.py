"""Shards of one process that die at a fail point and are made again from their folder.

What a shard holds in memory is gone as after SIGKILL; what it had written stays. Frames on their way are lost with its links.
"""

import contextlib
import time
from collections import deque

from gyral import faults
from gyral.engine.links import LinkLost
from gyral.params import client, deltas, moving
from gyral.params import shard as shards
from gyral.params.deltas import Deltas
from gyral.params.opening import Opened
from gyral.params.shard import Session, Settings, Shard
from gyral.params.table import Table

SETTINGS = Settings(cut_s=0.0, lease_s=1e9, join_s=1e9)


class Killed(BaseException):
    pass


class Deaths:
    """Kills shard `victim` when it comes to a point for the `count`-th time."""

    def __init__(self, monkeypatch):
        self.victim, self.point, self.left, self.seen = None, "", 0, []
        self.now = None
        for module in (deltas, moving, shards, faults):
            monkeypatch.setattr(module, "fail_point", self.point_reached)

    def plan(self, victim, point, count=1):
        self.victim, self.point, self.left = victim, point, count

    def point_reached(self, name):
        self.seen.append((self.now, name))
        if name == self.point and self.now == self.victim:
            self.left -= 1
            if self.left == 0:
                self.point = ""
                raise Killed


class World:
    """As many shards as there ever were, each with a folder."""

    def __init__(self, folder, specs, num, deaths, settings=None):
        self.folder, self.specs, self.first, self.deaths, self.settings = folder, specs, num, deaths, settings or SETTINGS
        self.shards, self.deaths_seen, self.clock = [], 0, 0.0
        for number in range(num):
            self.shards.append(self.made(number))

    def made(self, number):
        self.deaths.now = number
        keep = Deltas(self.folder / f"shard{number}", self.specs)
        shard = Shard(self.specs, number, self.first, self.settings, Table, keep, self.clock, lambda: 1.0)
        shard.cutter._hand = keep.write  # in this thread, so that it dies where the shard does
        return shard

    def run(self, number, call):
        """Do something in a shard, and make it anew when that kills it."""
        self.deaths.now = number
        shard = self.shards[number]
        try:
            call(shard)
        except Killed:
            self.deaths_seen += 1
            self.shards[number] = self.made(number)
            raise LinkLost(f"shard {number}", [str(number)], why="killed") from None

    def owners(self, bucket):
        return [shard.number for shard in self.shards if shard.owned[bucket]]


class Line(Session):
    def __init__(self):
        self.inbox = deque()

    def put(self, head, arrays):
        self.inbox.append((head, [each.copy() for each in arrays]))


class Channel:
    def __init__(self, world, number):
        self.world, self.number, self.shard, self.line = world, number, world.shards[number], Line()

    def send(self, head, arrays=()):
        if self.world.shards[self.number] is not self.shard:
            raise LinkLost("gone", ["gone"])
        self.world.clock += 1e-4
        arrays = [each.copy() for each in arrays]
        self.world.run(self.number, lambda shard: shard.handle(self.line, head, arrays, self.world.clock))
        self.world.run(self.number, lambda shard: shard.work(self.world.clock))

    def pump(self):
        frames = list(self.line.inbox)
        self.line.inbox.clear()
        if not frames and (self.line.is_closed or self.world.shards[self.number] is not self.shard):
            raise LinkLost("closed", ["closed"])
        return frames

    def close(self):
        self.line.close()


class Transport:
    is_copying = False

    def __init__(self, world):
        self.world = world
        self.refresh()

    def refresh(self):
        self.names = [f"shard {number}" for number in range(len(self.world.shards))]

    def grow(self, num):
        for number in range(len(self.world.shards), num):
            self.world.shards.append(self.world.made(number))
        self.refresh()

    def shrink(self, num):
        pass

    def connect(self, shard):
        return Channel(self.world, shard)

    def wait(self, channels, timeout_s):
        time.sleep(0.001)
        self.world.clock += 0.001
        for number in range(len(self.world.shards)):
            with contextlib.suppress(LinkLost):
                self.world.run(number, lambda shard: shard.work(self.world.clock))

    def close(self):
        pass


def joined(world, worker, **options):
    """A client of the world's shards."""

    def found():
        return Opened(Transport(world), world.settings, "", found)

    return client.Client(found(), world.specs, worker=worker, timeout_s=30.0, **options)
