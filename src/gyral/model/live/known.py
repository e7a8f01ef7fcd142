"""What a server knows of a live recommender: rows by name of table, put there as they change, and answers from them.

Writers put rows and then `flip`; readers hold one `View`, which never changes, so no answer mixes two versions of an object's
rows. A flip copies what is kept by object (1 MB at 4,000 objects and 32 numbers); rows of subjects are replaced one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gyral.model.live import tables as t
from gyral.model.live import visits as v
from gyral.model.live.visits import Objects
from gyral.params.hashing_kernel import INITS, first_values

ROOM = 1_024
"""Rows by which arrays grow at first, then by half."""


class View(NamedTuple):
    """One version. `names` and `titles` only grow: the first V are this version's.

    Attributes
    ----------
    hour : of event time, at which it is asked.
    popular_V : codes by how often everybody met them, most first.
    """

    objects: Objects
    r_VD: np.ndarray
    small_S: np.ndarray
    popular_V: np.ndarray
    count_V: np.ndarray
    hour: int
    version: int


class Known:
    """Tables in memory.

    Parameters
    ----------
    dim, seed : of the tables: what nobody pushed has the first values that follow from them.
    """

    def __init__(self, dim: int, seed: int = 0) -> None:
        self.dim = dim
        self._specs = t.specs(dim, seed=seed)
        self.names: list[str] = []
        self.titles: list[str] = []
        self.codes: dict[str, int] = {}
        self.subjects: dict[int, np.ndarray] = {}
        self.pasts: dict[int, np.ndarray] = {}
        """Packed: 20 objects of a subject take .4 kB, where the whole row takes 3.3."""
        self.hour = 0
        self._arrays = {name: np.zeros((0, self._specs[name].dim), np.float32) for name in t.OF_OBJECTS}
        self._small = np.zeros(v.NUM_SMALL, np.float32)
        self.view = self._made(0)

    def name(self, objects: list[str], titles: list[str]) -> None:
        """They have the next codes."""
        for name in objects:
            self.codes[name] = len(self.codes)
        self.names += objects
        self.titles += titles

    def put(self, table: str, keys_K: np.ndarray, rows_KD: np.ndarray) -> None:
        """Rows as they are now; seen after `flip`, those of subjects at once."""
        if table == t.SMALL:
            if len(keys_K):
                self._small = rows_KD[-1].copy()
        elif table in (t.SUBJECT, t.PAST):
            for key, row in zip(keys_K.tolist(), rows_KD, strict=True):
                if table == t.SUBJECT:
                    self.subjects[key] = row.copy()
                else:
                    self.pasts[key] = v.packed(row)
        elif len(keys_K):
            self._fit(int(keys_K.max()) + 1)
            self._arrays[table][keys_K] = rows_KD

    def keys(self, table: str) -> np.ndarray:
        """Of rows that were put, int64; of objects, all that have a name."""
        if table in (t.SUBJECT, t.PAST):
            return np.array(list(self.subjects if table == t.SUBJECT else self.pasts), np.int64)
        return np.arange(0 if table == t.SMALL else len(self.names))

    def gone(self, table: str, keys_K: np.ndarray) -> None:
        """They are as if they had never been."""
        if table in (t.SUBJECT, t.PAST):
            held = self.subjects if table == t.SUBJECT else self.pasts
            for key in keys_K.tolist():
                held.pop(key, None)
        elif table != t.SMALL and len(keys_K):
            known = keys_K[keys_K < len(self._arrays[table])]
            self._arrays[table][known] = self._first(table, known)

    def flip(self) -> View:
        """From now on answers are of what was put until now."""
        self.view = self._made(self.view.version + 1)
        return self.view

    def _made(self, version: int) -> View:
        num = len(self.names)
        self._fit(num)
        item, bias, met, seen = (self._arrays[name][:num].copy() for name in t.OF_OBJECTS)
        objects = Objects(item, bias[:, 0].copy(), v.lately(seen, self.hour), bias[:, 1].copy())
        popular = np.argsort(-seen[:, 0], kind="stable")
        return View(objects, met, self._small, popular, seen[:, 0].copy(), self.hour, version)

    def _fit(self, num: int) -> None:
        room = len(self._arrays[t.ITEM])
        if num > room:
            wider = max(num, room + room // 2, ROOM)
            for name, array in self._arrays.items():
                self._arrays[name] = np.concatenate([array, self._first(name, np.arange(room, wider))])

    def _first(self, table: str, keys_K: np.ndarray) -> np.ndarray:
        """Rows of keys that nobody pushed."""
        spec = self._specs[table]
        rows = np.empty((len(keys_K), spec.dim), np.float32)
        first_values(keys_K, np.uint64(spec.salt), INITS[spec.init], np.float32(spec.scale), rows)
        return rows

    def recommend(self, key: int, k: int, recent: list[str]) -> tuple[np.ndarray, np.ndarray, bool]:
        """Codes and scores, best first, and whether the subject has a past; `recent` counts as just met."""
        view = self.view
        held = self.pasts.get(key)
        past = np.zeros(v.PAST_WIDTH, np.float32) if held is None else v.unpacked(held)
        if recent:
            met = np.array([code for code in map(self.codes.get, dict.fromkeys(recent)) if code is not None], np.int64)
            past = v.remembered(past, met, view.hour, len(met))
        subject = self.subjects.get(key)
        p_BE = np.zeros((1, self.dim + 1), np.float32) if subject is None else subject[None]
        flat = v.past_of(past[None], np.array([float(view.hour)]))
        inside = flat.code_N < len(view.r_VD)
        flat = flat._replace(owner_N=flat.owner_N[inside], code_N=flat.code_N[inside], small_N3=flat.small_N3[inside])
        scores = v.scores(view.objects, flat, view.r_VD[flat.code_N], p_BE, view.small_S)[0]
        best = top(scores, k)
        return best, scores[best], bool(past[0] > 0)

    def popular(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes by how often everybody met them, and how often."""
        best = self.view.popular_V[:k]
        return best, self.view.count_V[best]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything as it is now, to be written into a model's folder."""
        view, num = self.view, len(self.view.r_VD)
        keys = np.array(sorted(self.pasts), np.int64)
        nobody = np.zeros(self.dim + 1, np.float32)
        subjects = [self.subjects.get(key, nobody) for key in keys.tolist()]
        return {
            **{name: self._arrays[name][:num] for name in t.OF_OBJECTS},
            t.SMALL: view.small_S[None],
            "keys": keys,
            t.SUBJECT: np.array(subjects, np.float32).reshape(len(keys), self.dim + 1),
            t.PAST: np.array([v.unpacked(self.pasts[key]) for key in keys.tolist()], np.float32).reshape(
                len(keys), v.PAST_WIDTH
            ),
        }

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Known:
        """What `arrays` gave, with its names, titles and hour."""
        made = cls(int(settings["dim"]), int(settings.get("seed", 0)))
        made.name(settings["names"], settings["titles"])
        made.hour = int(settings["hour"])
        for name in t.OF_OBJECTS:
            made.put(name, np.arange(len(arrays[name])), arrays[name])
        made.put(t.SMALL, np.zeros(1, np.int64), arrays[t.SMALL])
        for name in (t.SUBJECT, t.PAST):
            made.put(name, arrays["keys"], arrays[name])
        made.flip()
        return made


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k best, best first, ties to the lower."""
    k = min(k, len(scores))
    if k == 0:
        return np.zeros(0, np.int64)
    some = np.argpartition(-scores, k - 1)[:k]
    return np.asarray(some[np.lexsort((some, -scores[some]))])
