"""A step of the live recommender: rows out of the tables, one gradient, one push of everything that it changes.

Visits of one step are learned together (their losses add), each from its subject's past as the visits before it left it. What
is dropped has a reason: objects that were not let in yet, those over the limit, subjects with more events in an hour of event
time than a person makes (from that event on; the batch path, which sees the whole hour, drops all of it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from gyral.model.live import tables as t
from gyral.model.live import visits as v
from gyral.model.live.journal import Step
from gyral.model.live.visits import Objects, Past
from gyral.train.online import Met

Grads = Mapping[str, tuple[np.ndarray, np.ndarray]]


class Tables(Protocol):
    """Where rows are: in this process, another one, or on other hosts."""

    @property
    def durable(self) -> int:
        """Number of the last push that is on the disk in all of its parts."""

    def pull(self, table: str, keys_K: np.ndarray) -> np.ndarray:
        """Rows, float32 [K, D]."""

    def push(self, seq: int, grads: Grads, at: int) -> None:
        """Apply a push once, whatever is sent again; `at` is event time in seconds."""


class Limits(NamedTuple):
    """Who is let in.

    Attributes
    ----------
    admit_count : meetings after which an object gets a code.
    max_objects : codes at most; 0: no limit.
    events_per_hour : of one subject, in event time.
    """

    admit_count: int = 1
    max_objects: int = 0
    events_per_hour: int = 1_000


EVERYBODY = Limits()


class Visit(NamedTuple):
    """What one subject took at one time: distinct codes, how often each, and the past before it."""

    key: int
    hour: int
    codes: np.ndarray
    counts: np.ndarray
    past_P: np.ndarray


class Visits:
    """Learns visits; one a process.

    Parameters
    ----------
    sample : objects that a softmax draws where there are more than `MAX_SCORED`.
    """

    def __init__(self, tables: Tables, limits: Limits = EVERYBODY, seed: int = 0, sample: int = v.SAMPLE) -> None:
        self.tables, self.limits, self._seed, self._sample = tables, limits, seed, sample
        self.codes: dict[str, int] = {}
        self.names: list[str] = []
        self.titles: list[str] = []
        self.dropped: Counter[str] = Counter()
        self.rows = 0
        """Rows that were pushed."""
        self.learned = 0
        """Events that changed a table."""
        self.last_visits: list[Visit] = []
        self.loss = float("nan")
        """Mean of a moving window of visits, in nats."""
        self.quiet: list[tuple[int, int]] = []
        """Ranges of steps of which facts are kept and gradients are not: what a roll-back left out."""
        self._waiting: Counter[str] = Counter()

    @property
    def applied(self) -> int:
        """See `Learns`."""
        return self.tables.durable

    def admit(self, met: Met) -> tuple[list[str], list[str]]:
        """Objects that were met often enough; those over the limit wait for ever, and cost a counter each."""
        found: dict[str, str] = {}
        for name, title in zip(met.object, met.title, strict=True):
            if name in self.codes or name in found:
                continue
            self._waiting[name] += 1
            is_full = 0 < self.limits.max_objects <= len(self.names) + len(found)
            if self._waiting[name] >= self.limits.admit_count and not is_full:
                found[name] = title
        for name in found:
            del self._waiting[name]
        if len(self._waiting) > 1_000_000:  # a flood: those met once are forgotten
            self._waiting = Counter({name: count for name, count in self._waiting.items() if count > 1})
        return list(found), list(found.values())

    def name(self, objects: list[str], titles: list[str]) -> None:
        """They got the next codes."""
        for name in objects:
            self.codes[name] = len(self.codes)
        self.names += objects
        self.titles += titles

    def count(self) -> None:
        """Take the number of events learned from the tables, where it is exact whatever was done again."""
        rows = self.tables.pull(t.SEEN, np.arange(len(self.names)))
        self.learned = int(rows[:, 0].astype(np.float64).sum())

    def learn(self, step: Step, met: Met) -> None:
        """One push; also where nothing is learned, so that numbers have no gaps."""
        visits, pasts = self._visits(met)
        self.last_visits = visits
        grads: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if visits:
            if not any(first <= step.seq <= last for first, last in self.quiet):
                grads = self._gradients(visits, step)
            grads |= self._facts(visits, pasts, step.hour)
            self.learned += int(sum(visit.counts.sum() for visit in visits))
        self.rows += sum(len(keys) for keys, _ in grads.values())
        self.tables.push(step.seq, grads, int(met.time_s.max()) if len(met.time_s) else 0)

    def _visits(self, met: Met) -> tuple[list[Visit], dict[int, tuple[np.ndarray, np.ndarray]]]:
        """Visits in order, and each subject's past before and after all of them."""
        keys = t.keys_of(met.subject)
        who = np.unique(keys)
        before = dict(zip(who.tolist(), self.tables.pull(t.PAST, who), strict=True)) if len(who) else {}
        now = dict(before)
        found = []
        is_next = np.r_[np.ones(min(len(keys), 1), bool), (keys[1:] != keys[:-1]) | (met.time_s[1:] != met.time_s[:-1])]
        for first, end in pairwise([*np.flatnonzero(is_next).tolist(), len(keys)]):
            key, hour = int(keys[first]), int(met.time_s[first]) // v.HOUR_S
            past = now[key]
            room = self.limits.events_per_hour - (int(past[2]) if past[1] == hour else 0)
            allowed = min(end - first, max(room, 0))
            self.dropped["robot"] += end - first - allowed
            codes = np.array([self.codes.get(name, -1) for name in met.object[first : first + allowed]], np.int64)
            self.dropped["not_admitted"] += int((codes < 0).sum())
            unique, counts = np.unique(codes[codes >= 0], return_counts=True)
            now[key] = v.remembered(past, unique, hour, int(allowed))
            if len(unique):
                found.append(Visit(key, hour, unique, counts, past))
        return found, {key: (before[key], now[key]) for key in before}

    def _gradients(self, visits: list[Visit], step: Step) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        hours = np.array([visit.hour for visit in visits], np.float64)
        past = v.past_of(np.stack([visit.past_P for visit in visits]), hours)
        codes, rarity = self._scored(visits, past, step.seq)
        place = np.full(len(self.names), -1, np.int64)
        place[codes] = np.arange(len(codes))
        met_codes, inverse = np.unique(past.code_N, return_inverse=True)
        r_ND = self.tables.pull(t.MET, met_codes)[inverse]
        subjects = np.array([visit.key for visit in visits], np.int64)
        p_BE = self.tables.pull(t.SUBJECT, subjects)
        small_S = self.tables.pull(t.SMALL, np.zeros(1, np.int64))[0]
        objects = self.objects(codes, step.hour)
        g = v.learn(
            objects, past._replace(code_N=place[past.code_N]), r_ND, p_BE, small_S,
            [place[visit.codes] for visit in visits], rarity,
        )  # fmt: skip
        losses = g.loss_B[np.isfinite(g.loss_B)]
        if len(losses):
            share = min(len(losses) / 500, 1.0)
            mean = float(losses.mean())
            self.loss = mean if not np.isfinite(self.loss) else self.loss + share * (mean - self.loss)
        moved = np.flatnonzero(np.abs(g.b_C) >= v.LEAST_MASS)
        return {
            t.ITEM: (codes[moved], g.q_CD[moved]),
            t.BIAS: (codes[moved], np.column_stack([g.b_C, g.again_C])[moved]),
            t.MET: (past.code_N, g.r_ND),
            t.SUBJECT: (subjects, g.p_BE),
            t.SMALL: (np.zeros(1, np.int64), g.small_S[None]),
        }

    def objects(self, codes: np.ndarray, hour: float) -> Objects:
        """What is scored, as the tables have it."""
        bias, seen = self.tables.pull(t.BIAS, codes), self.tables.pull(t.SEEN, codes)
        return Objects(self.tables.pull(t.ITEM, codes), bias[:, 0], v.lately(seen, hour), bias[:, 1])

    def _scored(self, visits: list[Visit], past: Past, seq: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Codes over which the softmax goes: all, or what was taken or met and a sample of the rest."""
        total = len(self.names)
        if total <= v.MAX_SCORED:
            return np.arange(total), None
        must = np.unique(np.concatenate([past.code_N, *(visit.codes for visit in visits)]))
        drawn = np.unique(np.random.default_rng([self._seed, seq]).integers(0, total, self._sample))
        extra = np.setdiff1d(drawn, must, assume_unique=True)
        rarity = np.zeros(len(must) + len(extra), np.float32)
        rarity[len(must) :] = np.log(max(total - len(must), 1) / max(len(extra), 1))
        return np.concatenate([must, extra]), rarity

    def _facts(
        self, visits: list[Visit], pasts: dict[int, tuple[np.ndarray, np.ndarray]], hour: int
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Pasts and popularity as they are now, as differences."""
        keys = np.array(list(pasts), np.int64)
        moved = np.stack([before - after for before, after in pasts.values()])
        codes, inverse = np.unique(np.concatenate([visit.codes for visit in visits]), return_inverse=True)
        met = np.bincount(inverse, weights=np.concatenate([visit.counts for visit in visits]))
        seen = self.tables.pull(t.SEEN, codes)
        return {t.PAST: (keys, moved), t.SEEN: (codes, seen - v.seen_more(seen, met.astype(np.float32), hour))}
