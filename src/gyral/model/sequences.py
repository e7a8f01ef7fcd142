"""What each subject met, in order, as three plain arrays, and the windows of it that are rows of a batch.

The arrays can be memory-mapped as they are; a window is found from its number alone, so a run's position stays one integer.
Windows of one subject do not overlap in targets: each event but a subject's first is a target once a pass.

Shapes: S subjects, n events, B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gyral.model.recommender import Interactions

NO_TARGET = -1


@dataclass(frozen=True)
class Sequences:
    """Events sorted by subject, then time.

    Attributes
    ----------
    indptr : where each subject's events begin, int64 [S + 1].
    objects : codes, int32 [n].
    times : seconds since the epoch, int64 [n].
    length : inputs of a window at most.
    """

    indptr: np.ndarray
    objects: np.ndarray
    times: np.ndarray
    length: int

    @classmethod
    def of(cls, data: Interactions, length: int) -> Sequences:
        """From rows sorted by time; rows of one time keep their order."""
        order = np.argsort(data.subject, kind="stable")
        indptr = np.zeros(data.num_subjects + 1, dtype=np.int64)
        np.cumsum(np.bincount(data.subject, minlength=data.num_subjects), out=indptr[1:])
        return cls(indptr, data.object[order], data.time[order] // 1_000_000, length)

    @cached_property
    def _windows(self) -> np.ndarray:
        """Windows of the subjects before each, int64 [S + 1]."""
        targets = np.maximum(np.diff(self.indptr) - 1, 0)
        return np.concatenate([[0], np.cumsum(-(-targets // self.length))])

    @property
    def num_windows(self) -> int:
        """Rows of one pass."""
        return int(self._windows[-1])

    def windows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, times and targets of some windows, each int64 [B, T], padded at the end; targets with `NO_TARGET`.

        Windows are counted from a subject's last event backwards, so that only the oldest one is short.
        """
        subject = np.searchsorted(self._windows, numbers, side="right") - 1
        last = self.indptr[subject + 1] - 1 - (numbers - self._windows[subject]) * self.length  # the last target
        first = np.maximum(self.indptr[subject] + 1, last - self.length + 1)
        at = first[:, None] + np.arange(self.length)
        is_inside = at <= last[:, None]
        at = np.where(is_inside, at, last[:, None])
        targets = np.where(is_inside, self.objects[at], NO_TARGET)
        return self.objects[at - 1].astype(np.int64), self.times[at - 1], targets.astype(np.int64)

    def before(self, events: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Subjects of some events (places in `objects`), what each had met before, oldest first: objects, times, how many."""
        subject = np.searchsorted(self.indptr, events, side="right") - 1
        first = np.maximum(self.indptr[subject], events - self.length)
        sizes = events - first
        at = first[:, None] + np.arange(self.length)
        is_inside = at < events[:, None]
        at = np.where(is_inside, at, events[:, None])
        inputs = np.where(is_inside, self.objects[at], 0)
        return subject, inputs.astype(np.int64), np.where(is_inside, self.times[at], 0), sizes

    def last(self, subject: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The last objects of a subject and their times, oldest first; nobody's for −1."""
        if subject < 0:
            return self.objects[:0], self.times[:0]
        first, end = self.indptr[subject : subject + 2]
        first = max(first, end - count)
        return self.objects[first:end], self.times[first:end]


def window_flops(net: str, length: int, width: int, hidden: int, depth: int, compared: int) -> float:
    """FLOPs of one window, forward and backward; known without loading torch, so that a budget can be planned.

    Six a multiplied parameter and position, attention over all pairs (`hstu`) or the half before (`sasrec`), and the softmax
    over the `compared` objects.
    """
    is_hstu = net == "hstu"
    matrices = 5 * width**2 if is_hstu else 4 * width**2 + 2 * width * hidden
    attention = (12 if is_hstu else 6) * length * width
    return float(length) * (depth * (6 * matrices + attention) + 6 * width * compared)


def without_sequence(arrays: Mapping[str, np.ndarray], subject: int) -> dict[str, np.ndarray]:
    """The arrays of a net's model that remember nothing of one subject; a vector of their own becomes that of the unknown."""
    left = dict(arrays)
    if "sequence" not in arrays:
        return left
    first, last = arrays["sequence_indptr"][subject : subject + 2]
    for name in ("sequence", "sequence_time"):
        left[name] = np.delete(arrays[name], slice(first, last))
    left["sequence_indptr"] = arrays["sequence_indptr"].copy()
    left["sequence_indptr"][subject + 1 :] -= last - first
    for name in ("subjects.weight", "twin.subjects.weight"):
        if name in arrays:
            left[name] = arrays[name].copy()
            left[name][subject + 1] = left[name][0]
            if f"{name}_scale" in arrays:
                left[f"{name}_scale"] = arrays[f"{name}_scale"].copy()
                left[f"{name}_scale"][subject + 1] = left[f"{name}_scale"][0]
    return left
