"""A server in simulated time: arrivals, a policy that takes batches, workers whose batches last as long as the truth says.

The policy sees only what a real one sees: when requests come, their deadlines, and how long its batches took. The truth (curve,
noise, slow spells) is the simulator's. One event loop of two kinds of events: a request comes, a worker is free.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np


class Request(NamedTuple):
    """`priority` and `key` as the queue has them; `deadline` is on the clock of `at`."""

    id: int
    at: float
    deadline: float
    key: str = ""
    priority: int = 1


class Taken(NamedTuple):
    """A batch of request ids, computed by a variant."""

    ids: list[int]
    variant: int = 0


class Policy(Protocol):
    """What is compared."""

    def arrive(self, request: Request, now: float) -> bool: ...
    def take(self, now: float) -> tuple[Taken | None, list[int]]: ...
    def done(self, taken: Taken, seconds: float) -> None: ...


class Outcome(NamedTuple):
    """What happened to each request: seconds until it was answered (inf: never), the variant, and why not."""

    offered: int
    in_time: int
    late: int
    refused: int
    dropped: int
    unanswered: int
    span_s: float
    latency_s: np.ndarray
    on_time: np.ndarray
    variant: np.ndarray
    decision_us: float
    batch: float

    @property
    def goodput(self) -> float:
        return self.in_time / max(1, self.offered)

    @property
    def late_of_answered(self) -> float:
        return self.late / max(1, self.in_time + self.late)


def arrivals(
    rate: float,
    seconds: float,
    seed: int,
    *,
    bursty: bool = False,
    keys: int = 1,
    deadlines_ms: tuple[float, ...] = (20, 100, 500),
) -> list[Request]:
    """Poisson, or bursts of the same mean: 3x for a fifth of the time, spells of 0.2 s on average, half the rate between."""
    rng = np.random.default_rng(seed)
    if bursty:
        spells = []
        total = 0.0
        is_high = False
        while total < seconds:
            length = rng.exponential(0.2 if is_high else 0.8)
            spells.append((total, length, rate * (3.0 if is_high else 0.5)))
            total, is_high = total + length, not is_high
        parts = [begin + np.sort(rng.random(rng.poisson(high * length))) * length for begin, length, high in spells]
        times = np.concatenate(parts)
        times = times[times < seconds]
    else:
        times = np.sort(rng.random(rng.poisson(rate * seconds))) * seconds
    slack = rng.choice(np.array(deadlines_ms) / 1e3, len(times), p=[0.4, 0.4, 0.2])
    weights = 1 / np.arange(1, keys + 1)
    key = rng.choice(keys, len(times), p=weights / weights.sum())
    return [Request(n, float(t), float(t + s), f"k{k}") for n, (t, s, k) in enumerate(zip(times, slack, key, strict=True))]


def simulate(
    requests: list[Request],
    policy: Policy,
    truth: Callable[[int, int, float, np.random.Generator], float],
    *,
    workers: int = 1,
    seed: int = 0,
) -> Outcome:
    """Run to the end; `truth(size, variant, now, rng)` are the seconds of a batch."""
    rng = np.random.default_rng(seed)
    by_id = {each.id: each for each in requests}
    latency = np.full(len(requests), math.inf)
    variant_of = np.full(len(requests), -1)
    state = np.zeros(len(requests), np.int8)  # 1 answered, 2 refused, 3 dropped
    free, busy = workers, []
    count, decisions, batches = 0, 0.0, 0
    cursor = 0

    def settle(place: int, into: int) -> None:
        if state[place]:
            raise RuntimeError(f"request {place} was settled twice: {state[place]} then {into}")
        state[place] = into

    now = 0.0
    while cursor < len(requests) or busy:
        arrives = requests[cursor].at if cursor < len(requests) else math.inf
        ends = busy[0][0] if busy else math.inf
        now = min(arrives, ends)
        if arrives <= ends:
            began = time.perf_counter()
            is_let_in = policy.arrive(requests[cursor], now)
            decisions += time.perf_counter() - began
            if not is_let_in:
                settle(requests[cursor].id, 2)
            cursor += 1
        else:
            _, _, taken, seconds = heapq.heappop(busy)
            free += 1
            for id in taken.ids:
                settle(id, 1)
                latency[id] = now - by_id[id].at
                variant_of[id] = taken.variant
            policy.done(taken, seconds)
        while free:
            began = time.perf_counter()
            taken, gone = policy.take(now)
            decisions += time.perf_counter() - began
            for id in gone:
                settle(id, 3)
            if taken is None:
                break
            seconds = truth(len(taken.ids), taken.variant, now, rng)
            count += 1
            batches += len(taken.ids)
            free -= 1
            heapq.heappush(busy, (now + seconds, count, taken, seconds))
    slack = np.array([each.deadline - each.at for each in requests])
    on_time = latency <= slack
    answered = state == 1
    return Outcome(
        len(requests), int(on_time.sum()), int((answered & ~on_time).sum()), int((state == 2).sum()), int((state == 3).sum()),
        int((state == 0).sum()), now, latency, on_time, variant_of, 1e6 * decisions / max(1, len(requests)),
        batches / max(1, count),
    )  # fmt: skip


def noisy(
    curves: list[Any], noise: float = 0.15, pauses: float = 0.002
) -> Callable[[int, int, float, np.random.Generator], float]:
    """Batches last as the curve says, times a log-normal factor; one in 500 takes 20 ms longer."""

    def seconds(size: int, variant: int, now: float, rng: np.random.Generator) -> float:
        pause = 0.02 if rng.random() < pauses else 0.0
        return float(curves[variant].seconds(size) * math.exp(noise * rng.standard_normal() - noise * noise / 2) + pause)

    return seconds


class Recorder:
    """A policy that writes down what it was asked, so that the same calls can be timed without the simulator."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._arrive, self._take, self._done = type(policy).arrive, type(policy).take, type(policy).done

    def arrive(self, request: Request, now: float) -> bool:
        self.calls.append((self._arrive, (request, now)))
        return self.policy.arrive(request, now)

    def take(self, now: float) -> tuple[Taken | None, list[int]]:
        self.calls.append((self._take, (now,)))
        return self.policy.take(now)

    def done(self, taken: Taken, seconds: float) -> None:
        self.calls.append((self._done, (taken, seconds)))
        self.policy.done(taken, seconds)

    def replay_us(self, fresh: Policy, requests: int) -> float:
        """CPU microseconds a request of the same calls on a fresh policy: letting in, taking, learning, dropping."""
        began = time.process_time()
        for call, arguments in self.calls:
            call(fresh, *arguments)
        return 1e6 * (time.process_time() - began) / requests
