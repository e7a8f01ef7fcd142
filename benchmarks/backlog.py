"""A simulator of queues: events that wait for a lake, in time steps, a queue a partition.

A partition is one process: its collector takes events into its log, its drain takes them from there into the lake. They share
what the process gets of the cores, and collecting goes first. What cannot be taken, because a machine is lost or the log is
longer than a collector allows, waits at the clients and is sent again to those that take. A drain run takes what was there when
it began. The log lets go of whole segments, and only of what both tables have: the quarantine's offsets advance every 30 s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEVER = range(0)


@dataclass(frozen=True)
class Layout:
    """Partitions, machines they are on, cores a process gets, CPU seconds and bytes of an event, and gyral's own limits."""

    partitions: int
    machines: int
    cores: float
    collect_cpu_s: float
    drain_cpu_s: float
    bytes_per_event: float
    drain_every_s: float = 0.25
    trim_every_s: float = 30.0
    segment_bytes: float = 256 << 20
    most_log_bytes: float = 4 << 30


def daily(volume: float, peak_to_mean: float, dt: float) -> np.ndarray:
    """Events/s in each step of a day that begins at its quietest: exp(k cos t), with k from the peak that is given."""
    k = next(k for k in np.arange(0, 10, 0.001) if np.exp(k) / np.i0(k) >= peak_to_mean)
    steps = round(86_400 / dt)
    rate = np.exp(k * np.cos(2 * np.pi * (np.arange(steps) / steps - 0.5)))
    return rate * (volume / dt / rate.sum())


def simulate(layout: Layout, arrivals: np.ndarray, dt: float, lost: range = NEVER, paused: range = NEVER) -> dict[str, float]:
    """Play it: the largest backlogs and delays.

    Parameters
    ----------
    arrivals : events/s of all partitions in each step of `dt` seconds.
    lost : steps in which the first machine is not there; its disk is, later.
    paused : steps in which the drain of the last partition does nothing.
    """
    n, size, cpu_s = layout.partitions, layout.bytes_per_event, layout.cores * dt
    came, gone = np.zeros((n, len(arrivals) + 1)), np.zeros((n, len(arrivals) + 1))
    log, until, origin, is_lost = np.zeros(n), np.zeros(n), np.zeros(n), np.arange(n) * layout.machines // n == 0
    wake, trim_at = np.full(n, layout.drain_every_s), np.zeros(n)
    waiting = most_waiting = most_log = most_disk = 0.0
    normal_at = 0
    for step, rate in enumerate(arrivals):
        now = (step + 1) * dt
        alive = ~is_lost if step in lost else np.ones(n, dtype=bool)
        room = np.maximum(layout.most_log_bytes / size - log, 0.0)
        takes = alive & (room > 0)
        offered = rate * dt + waiting
        taken = np.where(takes, np.minimum(min(offered / max(takes.sum(), 1), cpu_s / layout.collect_cpu_s), room), 0.0)
        waiting = offered - taken.sum()
        log += taken
        if layout.drain_every_s < dt:  # many runs in a step: what came after the last began stays
            until = np.where(until == 0, np.maximum(log - taken * layout.drain_every_s / dt, 0.0), until)
        else:
            is_due = (until == 0) & (now >= wake)
            until, wake = np.where(is_due, log, until), np.where(is_due, now + layout.drain_every_s, wake)
        left_s = np.minimum(cpu_s - taken * layout.collect_cpu_s, dt)  # it drains in one thread
        drained = np.minimum(until, left_s / layout.drain_cpu_s) * alive
        drained[-1] *= step not in paused
        log, until = log - drained, until - drained
        came[:, step + 1], gone[:, step + 1] = came[:, step] + taken, gone[:, step] + drained
        most_disk = max(most_disk, float(((came[:, step + 1] - origin) * size).max()))
        trims = (drained > 0) & (until == 0) & (now >= trim_at)
        below, per_segment = gone[:, step + 1], layout.segment_bytes / size
        whole = np.where(log < 1, came[:, step + 1], origin + np.floor((below - origin) / per_segment) * per_segment)
        origin, trim_at = np.where(trims, whole, origin), np.where(trims, now + layout.trim_every_s, trim_at)
        most_waiting, most_log = max(most_waiting, waiting), max(most_log, float(log.max()))
        if waiting > 1 or log.max() > 2 * rate / n * max(dt, layout.drain_every_s):
            normal_at = step + 1
    at = np.arange(len(arrivals) + 1) * dt
    behind = [np.where(one > two + 1, at - np.interp(two, one, at), 0.0).max() for one, two in zip(came, gone, strict=True)]
    return {
        "most_events_waiting_in_a_log": round(most_log),
        "most_log_MB_of_a_partition": round(most_disk / 1e6, 1),
        "longest_from_answer_to_lake_s": round(float(max(behind)), 1),
        "most_events_waiting_at_clients": round(most_waiting),
        "normal_again_at_h": round(normal_at * dt / 3600, 2),
        "left_at_the_end": round(float(log.sum() + waiting)),
    }
