"""Shards and workers on a virtual clock: every delay is drawn from a seed, and each pull is checked for what it had to see.

Worker w adds 1 to its own keys in each clock, so a row says how many of its pushes are visible. Frames of a link arrive in
order, as TCP has it; links are as slow as the adversary likes, workers straggle, and links are cut and made anew.
"""

import heapq
import itertools
import random

import numpy as np

from gyral.params import wire
from gyral.params.shard import Session, Settings, Shard
from gyral.params.spec import Optimizer, TableSpec

from . import plain

SPEC = TableSpec("counts", 1, Optimizer(name="sgd", rate=1.0), init="zero")
KEYS = 6
DELAYS = (0.001, 0.001, 0.01, 0.2, 3.0)


class Violation(AssertionError):
    pass


class Simulator:
    def __init__(self, seed, sync, workers=3, shards=2, clocks=6, cuts=0.0):
        self.random, self.now, self.events, self.number = random.Random(seed), 0.0, [], itertools.count()
        self.clocks, self.cuts = clocks, cuts
        settings = Settings(sync=sync, workers=workers, lease_s=1e9, join_s=1e9)
        self.shards = [Shard([SPEC], n, shards, settings, plain.Plain, None, 0.0, lambda: self.now) for n in range(shards)]
        self.rule = self.shards[0].clocks.sync
        self.workers = [Worker(self, number) for number in range(workers)]
        self.lead = 0

    def later(self, delay, call):
        heapq.heappush(self.events, (self.now + delay, next(self.number), call))

    def run(self):
        for worker in self.workers:
            worker.begin()
        while self.events:
            self.now, _, call = heapq.heappop(self.events)
            call()
            for shard in self.shards:
                shard.work(self.now)
        stuck = [worker.number for worker in self.workers if worker.clock < self.clocks]
        if stuck:
            raise Violation(f"workers {stuck} wait for ever")

    def check(self, worker, rows):
        seen = rows.reshape(len(self.workers), KEYS)
        self.lead = max(self.lead, worker.clock - min(each.clock for each in self.workers))
        for other in self.workers:
            counts = set(seen[other.number].tolist())
            least = worker.clock if other is worker else worker.clock - self.rule.bound
            if self.rule.is_bsp and counts != {-float(worker.clock)}:
                raise Violation(f"at clock {worker.clock}, worker {other.number}'s pushes are seen {counts} times")
            if (self.rule.bound >= 0 or other is worker) and -max(counts) < least:
                raise Violation(
                    f"at clock {worker.clock}, {-max(counts)} pushes of worker {other.number} are seen, not {least}"
                )


class Line(Session):
    """A link: frames of each direction arrive in order, each as late as is drawn."""

    def __init__(self, world, worker, shard):
        self.world, self.owner, self.shard, self.sent_up = world, worker, shard, 0
        self.up = self.down = 0.0

    def send(self, make, *arrays):
        head = make(self.sent_up)
        self.sent_up += 1
        self.up = max(self.up, self.world.now + self.world.random.choice(DELAYS))
        handle = lambda: self.shard.handle(self, head, arrays, self.world.now)  # noqa: E731
        self.world.later(self.up - self.world.now, handle)

    def put(self, head, arrays):
        arrays = [each.copy() for each in arrays]
        self.down = max(self.down, self.world.now + self.world.random.choice(DELAYS))
        self.world.later(self.down - self.world.now, lambda: self.owner.heard(self, head, arrays))


class Worker:
    """Pull, think, push, tick; after a cut link, all pushes again, as the client does."""

    def __init__(self, world, number):
        self.world, self.number, self.clock, self.pushed = world, number, 0, []
        self.keys = np.arange(KEYS * world.shards[0].settings.workers)
        self.lines = [None for _ in world.shards]
        self.rows, self.left = np.zeros((len(self.keys), 1), np.float32), set()

    def begin(self):
        for at in range(len(self.lines)):
            self.connect(at)
        self.pull()

    def connect(self, at):
        line = self.lines[at] = Line(self.world, self, self.world.shards[at])
        digest = wire.digest([SPEC])
        line.send(lambda number: wire.Hello(number, self.number, 1, str(self.world.rule), digest))
        for seq, clock in self.pushed:
            self.push_to(at, seq, clock)
        line.send(lambda number: wire.Tick(number, self.clock))

    def pull(self):
        if self.clock == self.world.clocks:
            for line in self.lines:
                line.send(wire.Leave)
            return
        self.left = set(range(len(self.lines)))
        for at in self.left:
            self.pull_from(at)

    def of(self, at, keys):
        """Positions of keys that shard `at` has."""
        shard = self.world.shards[at]
        return [place for place, key in enumerate(keys.tolist()) if shard.owned[plain.bucket_of(key, SPEC.salt)]]

    def pull_from(self, at):
        keys = self.keys[self.of(at, self.keys)]
        self.lines[at].send(lambda number: wire.Pull(number, 0, self.clock, 0, len(keys)), keys)

    def push_to(self, at, seq, clock):
        mine = np.arange(KEYS) + KEYS * self.number
        keys = mine[self.of(at, mine)]
        head = lambda number: wire.Push(number, 0, clock, seq, 0, 0, len(keys))  # noqa: E731
        self.lines[at].send(head, keys, np.ones((len(keys), 1), np.float32))

    def heard(self, line, head, arrays):
        at = self.world.shards.index(line.shard)
        if line is not self.lines[at] or not isinstance(head, wire.Rows):
            return
        self.rows[self.of(at, self.keys)] = arrays[0]
        self.left.discard(at)
        if not self.left:
            self.world.check(self, self.rows)
            self.world.later(self.world.random.choice((0.0, 0.01, 0.1, 20.0)), self.step)

    def step(self):
        if self.world.random.random() < self.world.cuts:
            at = self.world.random.randrange(len(self.lines))
            self.lines[at].close()
            self.connect(at)
        self.pushed.append((len(self.pushed) + 1, self.clock))
        for at in range(len(self.lines)):
            self.push_to(at, *self.pushed[-1])
        self.clock += 1
        for line in self.lines:
            line.send(lambda number: wire.Tick(number, self.clock))
        self.pull()
