"""An oracle: a table as a dict, one row after the other, written from the words of `gyral.params.spec` and nothing else.

Python integers for hashes, numpy float32 scalars for arithmetic in the order that the docstrings name. Slow on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from gyral.params.records import Changes, Records
from gyral.params.spec import TableSpec

M = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
    return z ^ (z >> 31)


def hashed(key: int, salt: int) -> int:
    return mixed(((key * GOLDEN) & M) ^ salt)


def bucket_of(key: int, salt: int) -> int:
    return hashed(key, salt) >> 52


def first(key: int, spec: TableSpec) -> np.ndarray:
    """First values of a key, float32 [D]."""
    hash_, values = hashed(key, spec.salt), []
    for place in range(spec.dim):
        bits = mixed(((hash_ ^ 0xD1B54A32D192ED03) + (place + 1) * GOLDEN) & M)
        if spec.init in ("zero", "pushed"):
            values.append(np.float32(0))
        elif spec.init == "uniform":
            values.append((np.float32(bits >> 40) * np.float32(2.0**-23) - np.float32(1)) * np.float32(spec.scale))
        else:
            total = sum((bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)) - 131070
            one_over = np.float32(1 / math.sqrt((65536.0**2 - 1) / 3))
            values.append(np.float32(total) * one_over * np.float32(spec.scale))
    return np.array(values, dtype=np.float32)


class Counters:
    """What a bucket counts: a clock, the window of event time it is in, and four sets of counters."""

    def __init__(self, held: bytes = bytes(8 + 4 * 254)) -> None:
        self.clock, self.window = int.from_bytes(held[:4], "little"), int.from_bytes(held[4:8], "little")
        self.counts = list(held[8:])

    def __bytes__(self) -> bytes:
        return self.clock.to_bytes(4, "little") + self.window.to_bytes(4, "little") + bytes(self.counts)

    def tick(self) -> int:
        self.clock = (self.clock + 1) % 2**32
        return self.clock

    def count(self, hash_: int) -> int:
        """One more occurrence: the least of a key's four counters, and those that are that low, rise to 255 at most."""
        bits = mixed(((hash_ ^ 0xD1B54A32D192ED03) + ((1 << 40) + 1) * GOLDEN) & M)
        places = {254 * number + (((bits >> 16 * number) & 0xFFFF) * 254 >> 16) for number in range(4)}
        least = min(self.counts[place] for place in places)
        for place in places:
            if self.counts[place] == least < 255:
                self.counts[place] += 1
        return min(255, least + 1)

    def come_to(self, window: int) -> None:
        """Half of every counter is forgotten with each window that has passed."""
        if window > self.window:
            self.counts = [count >> min(8, window - self.window) for count in self.counts]
            self.window = window


class Plain:
    """The methods of `gyral.params.table.Table`."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.rows: dict[int, list[Any]] = {}  # key -> [stamp, state, weights as they rest]
        self.dirty: set[int] = set()
        self.gone: set[int] = set()
        self.counters: dict[int, Counters] = {}
        self.counted: set[int] = set()  # buckets whose counters changed

    def __len__(self) -> int:
        return len(self.rows)

    def weights(self, key: int) -> np.ndarray:
        return decoded(self.spec, self.rows[key][2]) if key in self.rows else first(key, self.spec)

    def pull(self, keys_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [self.weights(key) for key in keys_K.tolist()]
        held = [key in self.rows for key in keys_K.tolist()]
        return np.array(rows, dtype=np.float32).reshape(len(keys_K), self.spec.dim), np.array(held, dtype=bool)

    def push(
        self, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0, base_KD: np.ndarray | None = None, factor: float = 1.0
    ) -> None:
        sums: dict[int, np.ndarray] = {}
        times: dict[int, int] = {}
        bases: dict[int, np.ndarray] = {}
        for place, (key, grad) in enumerate(zip(keys_K.tolist(), grads_KD, strict=True)):
            sums[key] = sums[key] + grad if key in sums else grad.astype(np.float32)
            times[key] = times.get(key, 0) + 1
            if base_KD is not None:
                bases.setdefault(key, base_KD[place])
        state = np.zeros(self.spec.optimizer.state_words(self.spec.dim), np.float32)
        for key in sums:
            if key not in self.rows and (self.spec.admits_all or self.admitted(key, times[key], at)):
                self.rows[key] = [0, state, None]
        for key, grad in sums.items():
            if key not in self.rows:
                continue
            stamp, state, held = self.rows[key]
            weights = first(key, self.spec) if held is None else decoded(self.spec, held)
            if held is None and self.spec.init == "pushed":
                self.rows[key] = [max(stamp, at), state, self.rounded(key, np.array(grad, np.float32))]
                self.dirty.add(key)
                continue
            if key in bases:
                grad = grad + np.float32(self.spec.optimizer.compensation) * grad * grad * (weights - bases[key])
            state, weights = stepped(self.spec, state, weights, grad, factor)
            self.rows[key] = [max(stamp, at), state, self.rounded(key, weights)]
            self.dirty.add(key)

    def admitted(self, key: int, times: int, at: int) -> bool:
        spec, hash_ = self.spec, hashed(key, self.spec.salt)
        bucket = bucket_of(key, spec.salt)
        counters = self.counters.setdefault(bucket, Counters())
        if spec.admit_count > 1:
            self.counted.add(bucket)
            if spec.admit_window_s:
                counters.come_to(at // spec.admit_window_s)
        ready, let_in = spec.admit_count == 1, False
        for _ in range(times):
            if spec.admit_count > 1:
                ready |= counters.count(hash_) >= spec.admit_count
            chance = 0
            if ready and spec.admit_probability < 1:
                self.counted.add(bucket)
                chance = mixed(((hash_ ^ 0xA24BAED4963EE407) + counters.tick() * GOLDEN) & M) >> 32
            let_in |= ready and chance < round(spec.admit_probability * 2**32)
        most = spec.max_rows // 4096 + (bucket < spec.max_rows % 4096)
        return let_in and (not spec.max_rows or sum(bucket_of(one, spec.salt) == bucket for one in self.rows) < most)

    def rounded(self, key: int, weights: np.ndarray) -> np.ndarray:
        """Weights as they rest, uint8: of the two nearest numbers one at random, the nearer one more often."""
        if self.spec.dtype == "f32":
            return weights.view(np.uint8)
        hash_, clock = hashed(key, self.spec.salt), self.counters.setdefault(bucket_of(key, self.spec.salt), Counters()).tick()
        moment = mixed(((hash_ ^ 0x9FB21C651E98DF25) + clock * GOLDEN) & M)
        noise = [mixed((moment + (at // 4 + 1) * GOLDEN) & M) >> 16 * (at % 4) & 0xFFFF for at in range(self.spec.dim)]
        held = np.zeros(self.spec.weight_bytes, np.uint8)
        if self.spec.dtype == "bf16":
            bits = weights.view(np.uint32).tolist()
            halves = np.array([one + more >> 16 for one, more in zip(bits, noise, strict=True)], np.uint16)
            held[: 2 * self.spec.dim] = halves.view(np.uint8)
            return held
        scale = np.float32(abs(weights).max()) / np.float32(127)
        by = np.float32(1) / scale if scale else np.float32(0)
        whole = np.floor(weights * by + np.array(noise, np.float32) * np.float32(2.0**-16)).clip(-127, 127)
        held[:4] = np.array([scale]).view(np.uint8)
        held[4 : 4 + self.spec.dim] = whole.astype(np.int8).view(np.uint8)
        return held

    def expire(self, now: int) -> int:
        old = [key for key, row in self.rows.items() if self.spec.expire_s and row[0] + self.spec.expire_s < now]
        for key in old:
            del self.rows[key]
            self.dirty.discard(key)
            self.gone.add(key)
        return len(old)

    def records(self, keys: Iterable[int]) -> Records:
        keys = list(keys)
        bodies = [np.concatenate([self.rows[key][1].view(np.uint8), self.rows[key][2]]) for key in keys]
        stamps = np.array([self.rows[key][0] for key in keys], dtype=np.uint32)
        held = np.array(bodies, dtype=np.uint8).reshape(len(keys), self.spec.body_bytes)
        return Records(np.array(keys, dtype=np.int64), stamps, held)

    def export(self, bucket: int) -> tuple[Records, np.ndarray]:
        keys = sorted(key for key in self.rows if bucket_of(key, self.spec.salt) == bucket)
        return self.records(keys), self.counter_row(bucket)

    def counter_row(self, bucket: int) -> np.ndarray:
        spec = self.spec
        size = 1024 if spec.admit_count > 1 else 8 if spec.dtype != "f32" or spec.admit_probability < 1 else 0
        return np.frombuffer(bytes(self.counters.get(bucket, Counters()))[:size], np.uint8)

    def load(self, bucket: int, records: Records, counters: np.ndarray) -> None:
        self.drop(bucket)
        words = self.spec.optimizer.state_words(self.spec.dim)
        for key, stamp, body in zip(records.keys.tolist(), records.stamps.tolist(), records.bodies, strict=True):
            self.rows[key] = [stamp, body[: 4 * words].copy().view(np.float32), body[4 * words :].copy()]
        if len(counters):
            self.counters[bucket] = Counters(counters.tobytes().ljust(1024, b"\0"))

    def num_rows(self, buckets_N: np.ndarray) -> np.ndarray:
        counts = np.bincount([bucket_of(key, self.spec.salt) for key in self.rows] or [0], minlength=4096)
        counts[0] -= not self.rows
        return counts[buckets_N].astype(np.uint32)

    def drop(self, bucket: int) -> None:
        for keys in (self.rows, self.dirty, self.gone):
            for key in [key for key in keys if bucket_of(key, self.spec.salt) == bucket]:
                keys.pop(key) if isinstance(keys, dict) else keys.discard(key)
        self.counters.pop(bucket, None)
        self.counted.discard(bucket)

    def cut(self, first_bucket: int = 0, last_bucket: int = 4096) -> Changes:
        of = {key: bucket_of(key, self.spec.salt) for key in self.dirty | self.gone}
        of = {key: bucket for key, bucket in of.items() if first_bucket <= bucket < last_bucket}
        counted = {bucket for bucket in self.counted if first_bucket <= bucket < last_bucket}
        buckets = sorted({*of.values(), *counted})
        upserts = [sorted(key for key in self.dirty if of.get(key) == bucket) for bucket in buckets]
        gone = [sorted(key for key in self.gone - self.dirty if of.get(key) == bucket) for bucket in buckets]
        self.dirty -= set(of)
        self.gone -= set(of)
        self.counted -= counted
        counters = np.array([self.counter_row(bucket) for bucket in buckets], np.uint8)
        return Changes(
            np.array(buckets, np.uint16), self.records(key for keys in upserts for key in keys), _starts(upserts),
            np.array([key for keys in gone for key in keys], np.int64), _starts(gone),
            counters.reshape(len(buckets), len(self.counter_row(0))),
        )  # fmt: skip


def _starts(lists: list[list[int]]) -> np.ndarray:
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)


def decoded(spec: TableSpec, held: np.ndarray) -> np.ndarray:
    """float32 weights of what rests."""
    if spec.dtype == "f32":
        return held.view(np.float32)
    if spec.dtype == "bf16":
        return (held[: 2 * spec.dim].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return held[4 : 4 + spec.dim].view(np.int8).astype(np.float32) * held[:4].view(np.float32)[0]


def stepped(
    spec: TableSpec, state: np.ndarray, w: np.ndarray, g: np.ndarray, factor: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """One step of one row in numpy float32."""
    how, f, dim = spec.optimizer, np.float32, spec.dim
    rate, eps = f(how.rate * factor), f(how.eps or 1e-30)
    w = w * f(1 - how.rate * factor * how.decay)
    if how.name == "sgd":
        return state, w - rate * g
    if how.name == "momentum":
        state = f(how.momentum) * state + g
        return state, w - rate * state
    if how.name == "rowwise_adagrad":
        lanes = np.zeros(8, f)
        for at in range(0, dim, 8):
            some = g[at : at + 8]
            lanes[: len(some)] += some * some
        fours = lanes[:4] + lanes[4:]
        total = (fours[0] + fours[2]) + (fours[1] + fours[3])
        state = state + total / f(dim)
        return state, w - rate / (np.sqrt(state[0]) + eps) * g
    if how.name == "adagrad":
        state = state + g * g
        return state, w - rate * g / (np.sqrt(state) + eps)
    if how.name == "adam":
        step, m, v = state[0] + f(1), state[1 : dim + 1], state[dim + 1 :]
        m, v = m + (g - m) * f(1 - how.beta1), f(how.beta2) * v + f(1 - how.beta2) * g * g
        by = f(how.rate * factor / (1 - how.beta1 ** float(step)))
        root = f(math.sqrt(1 - how.beta2 ** float(step)))
        return np.concatenate([[step], m, v]).astype(f), w - by * m / (np.sqrt(v) / root + eps)
    z, n = state[:dim], state[dim:]
    sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / rate
    z, n = z + g - sigma * w, n + g * g
    shrunk = np.sign(z) * f(how.l1) - z
    w = np.where(np.abs(z) <= f(how.l1), f(0), shrunk / ((f(how.beta) + np.sqrt(n)) / rate + f(how.l2)))
    return np.concatenate([z, n]), w.astype(f)
