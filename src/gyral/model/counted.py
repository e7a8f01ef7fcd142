"""Numbers about a subject and an object as they were just before an event: counted from earlier events only, never from later.

| number | log(1 + …) of |
|---|---|
| 0 | events of the subject |
| 1 | events of the object |
| 2 | events of the object among the last twentieth of all |
| 3 | times the subject met the object |
| 4 | days since the subject's last event |

A count before event p is a binary search in sorted (thing, event) numbers: 5 a row, about 3 µs.
"""

from __future__ import annotations

import numpy as np

from gyral.model.recommender import Interactions

NUM = 5
LATELY = 0.05
DAY_S = 86_400


class Counted:
    """Counts of one log of interactions, at any place of it.

    Parameters
    ----------
    subject, object : codes in time order, [n].
    seconds : times, int64 [n], ascending.
    """

    def __init__(self, subject: np.ndarray, object_: np.ndarray, seconds: np.ndarray, num_objects: int) -> None:
        self.num = len(subject)
        self._num_objects, self._seconds, self._objects = num_objects, seconds, object_
        self._lately = max(int(self.num * LATELY), 1)
        self._pairs, pair = np.unique(self._pair(subject, object_), return_inverse=True)
        self._subject, self._object, self._pair_keys = (self._keys(thing) for thing in (subject, object_, pair))

    @classmethod
    def of(cls, data: Interactions) -> Counted:
        """Of rows sorted by time."""
        return cls(data.subject, data.object, data.time // 1_000_000, data.num_objects)

    def numbers(self, places: np.ndarray, subject: np.ndarray, object_: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """What was known just before places of the log, float32 [B, `NUM`].

        Parameters
        ----------
        places : int64 [B]; n: after everything.
        subject, object, seconds : who, what and when is asked about, [B]; a subject of −1 has met nothing.
        """
        of_subject, found = self._before(self._subject, subject, places)
        last = self._seconds[self._subject[np.maximum(found - 1, 0)] % max(self.num, 1)] if self.num else seconds
        days = np.where(of_subject > 0, np.maximum(seconds - last, 0) / DAY_S, 0.0)
        of_object, _ = self._before(self._object, object_, places)
        earlier, _ = self._before(self._object, object_, np.maximum(places - self._lately, 0))
        pair = self._pair(subject, object_)
        at = np.minimum(np.searchsorted(self._pairs, pair), max(len(self._pairs) - 1, 0))
        known = self._pairs[at] == pair if len(self._pairs) else np.zeros(len(pair), bool)
        together = np.where(known, self._before(self._pair_keys, at, places)[0], 0)
        counts = np.stack([of_subject, of_object, of_object - earlier, together, days], axis=1)
        return np.asarray(np.log1p(counts), dtype=np.float32)

    def now(self, subjects: np.ndarray, second: int) -> np.ndarray:
        """`numbers` after everything, of each subject with every object, float32 [B, V, `NUM`]; sums in place of searches."""
        counts = np.zeros((len(subjects), self._num_objects, NUM))
        counts[:, :, 1] = np.bincount(self._objects, minlength=self._num_objects)
        counts[:, :, 2] = np.bincount(self._objects[max(self.num - self._lately, 0) :], minlength=self._num_objects)
        begin = subjects.astype(np.int64) * max(self.num, 1)
        first, last = np.searchsorted(self._subject, begin), np.searchsorted(self._subject, begin + self.num)
        for row in np.flatnonzero(last > first):
            events = self._subject[first[row] : last[row]] % self.num
            counts[row, :, 0] = len(events)
            counts[row, :, 3] = np.bincount(self._objects[events], minlength=self._num_objects)
            counts[row, :, 4] = max(second - int(self._seconds[events[-1]]), 0) / DAY_S
        return np.asarray(np.log1p(counts), dtype=np.float32)

    def _keys(self, thing: np.ndarray) -> np.ndarray:
        """(thing, event) as one number, sorted."""
        return np.sort(thing.astype(np.int64) * max(self.num, 1) + np.arange(self.num))

    def _before(self, keys: np.ndarray, thing: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many events of each thing came before a place, and where the next one stands in the keys."""
        begin = thing.astype(np.int64) * max(self.num, 1)
        found = np.searchsorted(keys, begin + places)
        return found - np.searchsorted(keys, begin), found

    def _pair(self, subject: np.ndarray, object_: np.ndarray) -> np.ndarray:
        return np.asarray(subject.astype(np.int64) * self._num_objects + object_)
