"""Robots: subjects whose timing no person has. Two rules, both on time alone, so a generous shopper is never one.

- rate: more events in one clock hour than a person makes;
- regularity: hundreds of moments spaced like a clock (coefficient of variation of the gaps below .1; people are above 1), and
  close together: once a day is what data with dates instead of times looks like, and habit.
"""

from __future__ import annotations

import numpy as np

HOUR_US = 3_600_000_000
MAX_VARIATION = 0.1
MAX_MEAN_GAP_US = 6 * HOUR_US


def find(subjects: np.ndarray, times: np.ndarray, *, events_per_hour: int, regular_events: int) -> np.ndarray:
    """Mask of the rows whose subject is a robot.

    Parameters
    ----------
    subjects : int codes [n].
    times : event time in microseconds [n].
    events_per_hour : more events than this in one clock hour is a robot.
    regular_events : this many distinct moments at a near-constant distance is a robot.
    """
    if len(subjects) == 0:
        return np.zeros(0, dtype=bool)
    num_subjects = int(subjects.max()) + 1
    is_robot = np.zeros(num_subjects, dtype=bool)
    pairs, counts = np.unique(np.stack([subjects, times // HOUR_US]), axis=1, return_counts=True)
    is_robot[pairs[0, counts > events_per_hour]] = True
    order = np.lexsort((times, subjects))
    who, when = subjects[order], times[order]
    moment = np.r_[True, (who[1:] != who[:-1]) | (when[1:] != when[:-1])]
    who, when = who[moment], when[moment]
    inside = who[1:] == who[:-1]
    gaps, owner = np.diff(when)[inside].astype(np.float64), who[1:][inside]
    count = np.bincount(owner, minlength=num_subjects)
    total = np.bincount(owner, weights=gaps, minlength=num_subjects)
    square = np.bincount(owner, weights=gaps * gaps, minlength=num_subjects)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        variation = np.sqrt(np.maximum(square / count - mean * mean, 0)) / mean
        is_robot |= (count + 1 >= regular_events) & (variation < MAX_VARIATION) & (mean < MAX_MEAN_GAP_US)
    found: np.ndarray = is_robot[subjects]
    return found
