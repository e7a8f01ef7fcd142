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
        if spec.init == "zero":
            values.append(np.float32(0))
        elif spec.init == "uniform":
            values.append((np.float32(bits >> 40) * np.float32(2.0**-23) - np.float32(1)) * np.float32(spec.scale))
        else:
            total = sum((bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)) - 131070
            one_over = np.float32(1 / math.sqrt((65536.0**2 - 1) / 3))
            values.append(np.float32(total) * one_over * np.float32(spec.scale))
    return np.array(values, dtype=np.float32)


class Plain:
    """The methods of `gyral.params.table.Table` for float32 rows that are all admitted and never full."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.rows: dict[int, list[Any]] = {}  # key -> [stamp, state, weights]
        self.dirty: set[int] = set()
        self.gone: set[int] = set()

    def __len__(self) -> int:
        return len(self.rows)

    def pull(self, keys_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [self.rows[key][2] if key in self.rows else first(key, self.spec) for key in keys_K.tolist()]
        held = [key in self.rows for key in keys_K.tolist()]
        return np.array(rows, dtype=np.float32).reshape(len(keys_K), self.spec.dim), np.array(held, dtype=bool)

    def push(self, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0) -> None:
        sums: dict[int, np.ndarray] = {}
        for key, grad in zip(keys_K.tolist(), grads_KD, strict=True):
            sums[key] = sums[key] + grad if key in sums else grad.astype(np.float32)
        for key, grad in sums.items():
            state = np.zeros(self.spec.optimizer.state_words(self.spec.dim), np.float32)
            stamp, state, weights = self.rows.get(key, (0, state, first(key, self.spec)))
            state, weights = stepped(self.spec, state, weights, grad)
            self.rows[key] = [max(stamp, at), state, weights]
            self.dirty.add(key)

    def expire(self, now: int) -> int:
        old = [key for key, row in self.rows.items() if self.spec.expire_s and row[0] + self.spec.expire_s < now]
        for key in old:
            del self.rows[key]
            self.dirty.discard(key)
            self.gone.add(key)
        return len(old)

    def records(self, keys: Iterable[int]) -> Records:
        keys = list(keys)
        bodies = [np.concatenate([self.rows[key][1], self.rows[key][2]]).view(np.uint8) for key in keys]
        stamps = np.array([self.rows[key][0] for key in keys], dtype=np.uint32)
        held = np.array(bodies, dtype=np.uint8).reshape(len(keys), self.spec.body_bytes)
        return Records(np.array(keys, dtype=np.int64), stamps, held)

    def export(self, bucket: int) -> tuple[Records, np.ndarray]:
        keys = sorted(key for key in self.rows if bucket_of(key, self.spec.salt) == bucket)
        return self.records(keys), np.zeros(0, np.uint8)

    def load(self, bucket: int, records: Records, counters: np.ndarray) -> None:
        self.drop(bucket)
        words = self.spec.optimizer.state_words(self.spec.dim)
        for key, stamp, body in zip(records.keys.tolist(), records.stamps.tolist(), records.bodies, strict=True):
            floats = body.copy().view(np.float32)
            self.rows[key] = [stamp, floats[:words], floats[words:]]

    def drop(self, bucket: int) -> None:
        for keys in (self.rows, self.dirty, self.gone):
            for key in [key for key in keys if bucket_of(key, self.spec.salt) == bucket]:
                keys.pop(key) if isinstance(keys, dict) else keys.discard(key)

    def cut(self, first_bucket: int = 0, last_bucket: int = 4096) -> Changes:
        of = {key: bucket_of(key, self.spec.salt) for key in self.dirty | self.gone}
        of = {key: bucket for key, bucket in of.items() if first_bucket <= bucket < last_bucket}
        buckets = sorted(set(of.values()))
        upserts = [sorted(key for key in self.dirty if of.get(key) == bucket) for bucket in buckets]
        gone = [sorted(key for key in self.gone - self.dirty if of.get(key) == bucket) for bucket in buckets]
        self.dirty -= set(of)
        self.gone -= set(of)
        return Changes(
            np.array(buckets, np.uint16), self.records(key for keys in upserts for key in keys), _starts(upserts),
            np.array([key for keys in gone for key in keys], np.int64), _starts(gone), np.zeros((len(buckets), 0), np.uint8),
        )  # fmt: skip


def _starts(lists: list[list[int]]) -> np.ndarray:
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)


def stepped(spec: TableSpec, state: np.ndarray, w: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of one row in numpy float32."""
    how, f, dim = spec.optimizer, np.float32, spec.dim
    rate, eps = f(how.rate), f(how.eps)
    if how.name == "sgd":
        return state, w - rate * g
    if how.name == "momentum":
        state = f(how.momentum) * state + g
        return state, w - rate * state
    if how.name == "rowwise_adagrad":
        total = f(0)
        for each in g:
            total += each * each
        state = state + total / f(dim)
        return state, w - rate / (np.sqrt(state[0]) + eps) * g
    if how.name == "adagrad":
        state = state + g * g
        return state, w - rate * g / (np.sqrt(state) + eps)
    if how.name == "adam":
        step, m, v = state[0] + f(1), state[1 : dim + 1], state[dim + 1 :]
        m, v = m + (g - m) * f(1 - how.beta1), f(how.beta2) * v + f(1 - how.beta2) * g * g
        by = f(how.rate / (1 - how.beta1 ** float(step)))
        root = f(math.sqrt(1 - how.beta2 ** float(step)))
        return np.concatenate([[step], m, v]).astype(f), w - by * m / (np.sqrt(v) / root + eps)
    z, n = state[:dim], state[dim:]
    sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / rate
    z, n = z + g - sigma * w, n + g * g
    shrunk = np.sign(z) * f(how.l1) - z
    w = np.where(np.abs(z) <= f(how.l1), f(0), shrunk / ((f(how.beta) + np.sqrt(n)) / rate + f(how.l2)))
    return np.concatenate([z, n]), w.astype(f)
