"""Servers in simulated time, compiled: first come first served, batches of what waits, and stages in a row.

They draw by number (`quantile_kernel.py`), share one kind of arrivals (a Poisson or other renewal process whose rate is given
for each step of time), and count times in histograms. What they tell of each step of time is a row of `steps`:
[came, refused, late, seconds in the system, workers, seconds of work]. One thread each; the lock of Python is free meanwhile.

Source: waiting times of G/G/c, Kiefer and Wolfowitz 1955, kept as a heap of the moments at which workers are free.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gyral.plan.quantile_kernel import U, bin_of, quantile, sift_down, sift_up, uniform

_0, _1, _2, _3 = U(0), U(1), U(2), U(3)
OF_BATCHES, OF_HOPS = U(0xD1B54A32D192ED03), U(0x8CB92BA72F3D8DD7)
CAME, REFUSED, LATE, SOJOURN, WORKERS, WORK = 0, 1, 2, 3, 4, 5


@njit(nogil=True, cache=True, inline="always")
def arrival(t: float, at: int, owed: float, rates: np.ndarray, step_s: float) -> tuple[float, int]:
    """When the integral of the rate from `t` is `owed`, and in which step; beyond the last step: there is none."""
    while at < len(rates):
        room = (at + 1) * step_s - t
        if rates[at] * room >= owed and rates[at] > 0:
            return t + owed / rates[at], at
        owed -= rates[at] * room
        at += 1
        t = at * step_s
    return math.inf, at


@njit(nogil=True, cache=True)
def wanted(
    steps: np.ndarray, at: int, step_s: float, service_s: float, busy_share: float, lag: int, hold: int, least: int, most: int
) -> int:
    """Workers of step `at` by an autoscaler that sees what came `lag` steps ago and does not take away within `hold` steps."""
    best = least
    for seen in range(max(0, at - lag - hold), at - lag + 1):
        need = math.ceil(steps[seen, CAME] * service_s / (step_s * busy_share) - 1e-9)
        best = max(best, min(int(need), most))
    return best


@njit(nogil=True, cache=True)
def first_come(
    key: np.uint64, rates: np.ndarray, step_s: float, gaps: np.ndarray, services: np.ndarray, servers: np.ndarray,
    scaling: np.ndarray, hit_share: float, hit_s: float, deadline_s: float, least_s: float, warm_s: float,
    waits: np.ndarray, sojourns: np.ndarray, steps: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    """Serve in the order of arrival, by whoever is free first.

    Parameters
    ----------
    rates, servers : requests a second and workers of each step, float64 and int64 [n].
    gaps, services : tables of quantiles, of time between arrivals (mean 1) and of seconds of work.
    scaling : [seconds of a request, share of busy workers aimed at, lag, hold, least, most]; lag 0: `servers` are the workers.
    hit_share, hit_s : answered from a cache, in so long.
    deadline_s, least_s : who would have less than `least_s` left when his turn comes is refused; inf: nobody.
    warm_s : who comes before is not counted in the histograms and sums.
    waits, sojourns : int64 [BINS], counted up.
    steps : float64 [n, 6], filled.
    sums : float64 [4]: counted, seconds waited, seconds in the system, seconds of work.
    """
    n = len(rates)
    most = max(int(servers.max()), int(scaling[5]))
    heap = np.zeros(most + 1)
    count = int(servers[0]) if scaling[2] == 0 else int(scaling[4])
    leaving = 0
    steps[0, WORKERS] = count
    t, at, number = 0.0, 0, _0
    while True:
        t, then = arrival(t, at, quantile(gaps, uniform(key, number * _3)), rates, step_s)
        while at < then:
            at += 1
            if at >= n:
                return
            target = int(servers[at])
            if scaling[2] > 0:
                lag, hold = int(scaling[2]), int(scaling[3])
                target = wanted(steps, at, step_s, scaling[0], scaling[1], lag, hold, int(scaling[4]), int(scaling[5]))
            while count - leaving < target:
                if leaving:
                    leaving -= 1
                else:
                    sift_up(heap, count, at * step_s)
                    count += 1
            leaving = count - target
            steps[at, WORKERS] = target
        steps[at, CAME] += 1
        is_counted = t >= warm_s
        if hit_share > 0 and uniform(key, number * _3 + _1) < hit_share:
            number += _1
            steps[at, SOJOURN] += hit_s
            if is_counted:
                sojourns[bin_of(hit_s)] += 1
                waits[0] += 1
                sums[0] += 1
                sums[2] += hit_s
            continue
        while leaving and count > 1:
            # who is to go does so when idle; the one that is idle first is
            count -= 1
            leaving -= 1
            sift_down(heap, count, heap[count])
        start = max(t, heap[0])
        wait = start - t
        if wait > deadline_s - least_s:
            steps[at, REFUSED] += 1
            number += _1
            continue
        service = quantile(services, uniform(key, number * _3 + _2))
        number += _1
        sift_down(heap, count, start + service)
        steps[at, SOJOURN] += wait + service
        steps[at, WORK] += service
        if wait + service > deadline_s:
            steps[at, LATE] += 1
        if is_counted:
            waits[bin_of(wait)] += 1
            sojourns[bin_of(wait + service)] += 1
            sums[0] += 1
            sums[1] += wait
            sums[2] += wait + service
            sums[3] += service


@njit(nogil=True, cache=True)
def batches(
    key: np.uint64, rates: np.ndarray, step_s: float, gaps: np.ndarray, fixed_s: float, each_s: float, noise: np.ndarray,
    front_s: float, hops: np.ndarray, slower: float, cools_s: float, servers: np.ndarray, max_batch: int, deadline_s: float,
    max_waiting: int, warm_s: float, waits: np.ndarray, sojourns: np.ndarray, steps: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    """A free worker takes all that waits, at most `max_batch`: `(fixed_s + each_s · size) · noise · cold` seconds.

    Parameters
    ----------
    noise : table of quantiles of a factor, mean 1.
    front_s : of the one process in front, before a request can wait for a worker.
    hops : table of quantiles of seconds that a request spends elsewhere and nobody waits for.
    slower, cools_s : cold is `1 + slower · (1 − exp(−idle / cools_s))` for a worker that was idle so long, of hops, too.
    deadline_s : at the head of the queue, who could not be answered in time alone is given up; inf: nobody.
    max_waiting : more are refused.
    sums : float64 [7]: counted, waited, in the system, of work; batches; and the area under who waits, and its seconds.
    """
    n = len(rates)
    queue = np.empty(max_waiting)
    front = 0.0
    head, size, batch_number, answered = 0, 0, _0, _0
    count = int(servers[0])
    free = np.zeros(int(servers.max()))
    steps[0, WORKERS] = count
    number, at = _0, 0
    batch_key, hop_key = key ^ OF_BATCHES, key ^ OF_HOPS
    next_t, next_at = arrival(0.0, 0, quantile(gaps, uniform(key, _0)), rates, step_s)
    seen = 0.0
    end = n * step_s
    while size or next_at < n:
        place = 0
        for each in range(1, count):
            if free[each] < free[place]:
                place = each
        # with nobody waiting the next event is an arrival; who waits where a worker is free has just come
        starts = max(free[place], seen) if size else math.inf
        enters = max(next_t, front) + front_s
        if enters <= starts:
            now = front = enters
            sums[5] += size * (min(now, end) - min(seen, end))
            seen = now
            while at < next_at:
                at += 1
                for each in range(count, int(servers[at])):
                    free[each] = max(free[each], at * step_s)
                count = int(servers[at])
                steps[at, WORKERS] = count
            steps[at, CAME] += 1
            if size == max_waiting:
                steps[at, REFUSED] += 1
            else:
                queue[(head + size) % max_waiting] = next_t
                size += 1
            number += _1
            next_t, next_at = arrival(next_t, at, quantile(gaps, uniform(key, number)), rates, step_s)
            continue
        now = starts
        sums[5] += size * (min(now, end) - min(seen, end))
        seen = now
        while size and now - queue[head] + fixed_s + each_s > deadline_s:
            steps[min(int(queue[head] / step_s), n - 1), REFUSED] += 1
            head = (head + 1) % max_waiting
            size -= 1
            answered += _1
        if not size:
            continue
        taken = min(size, max_batch)
        cold = 1 - slower * math.expm1(-(now - free[place]) / cools_s) if slower > 0 else 1.0
        lasts = (fixed_s + each_s * taken) * quantile(noise, uniform(batch_key, batch_number)) * cold
        batch_number += _1
        free[place] = now + lasts
        for _ in range(taken):
            came = queue[head]
            hop = quantile(hops, uniform(hop_key, answered)) * cold
            answered += _1
            head = (head + 1) % max_waiting
            spent = now - came + lasts + hop
            step = min(int(came / step_s), n - 1)
            steps[step, SOJOURN] += spent
            steps[step, WORK] += lasts / taken
            if spent > deadline_s:
                steps[step, LATE] += 1
            if came >= warm_s:
                waits[bin_of(now - came)] += 1
                sojourns[bin_of(spent)] += 1
                sums[0] += 1
                sums[1] += now - came
                sums[2] += spent
                sums[3] += lasts / taken
        size -= taken
        sums[4] += 1
    sums[6] = end


@njit(nogil=True, cache=True)
def stage(came: np.ndarray, key: np.uint64, services: np.ndarray, workers: int, ends: np.ndarray) -> None:
    """Ends of service of who came (ascending float64 [n]), first come first served: one of several stages in a row."""
    heap = np.zeros(workers)
    for place in range(len(came)):
        end = max(came[place], heap[0]) + quantile(services, uniform(key, U(place)))
        sift_down(heap, workers, end)
        ends[place] = end


@njit(nogil=True, cache=True)
def arrivals(key: np.uint64, rates: np.ndarray, step_s: float, gaps: np.ndarray, times: np.ndarray) -> int:
    """Fill `times` with arrivals; how many there are."""
    t, at = 0.0, 0
    for number in range(len(times)):
        t, at = arrival(t, at, quantile(gaps, uniform(key, U(number) * _3)), rates, step_s)
        if at >= len(rates):
            return number
        times[number] = t
    return len(times)
