"""Robots: subjects that behave as no person does. What a person can do in abundance, like buying a lot at once, is never one.

- rate: more events in one clock hour than a person makes;
- regularity: hundreds of moments spaced like a clock (coefficient of variation of the gaps below .1; people are above 1), and
  close together: once a day is what data with dates instead of times looks like, and habit;
- round the clock: the hours of the day in which a subject is active have the entropy of a die. Who sleeps six hours reaches .91
  of it, in whatever time zone, and the hours of weeks have to be seen; a program reaches .98;
- one object: hundreds of moments that all but a few go to one object, as when a counter is pushed up.
"""

from __future__ import annotations

import numpy as np

HOUR_US = 3_600_000_000
HOURS = 24
MAX_VARIATION = 0.1
MAX_MEAN_GAP_US = 6 * HOUR_US
MIN_CLOCK_ENTROPY = 0.98
"""Of the largest there can be; with 168 hours a uniform source lies above in 99.9 % of cases, as its deviation is .006."""
MAX_OBJECT_BITS = 0.25
"""96 % of the moments at one object, and the others at another one."""
MIN_OBJECTS = 10
"""Where fewer things can be met, meeting one is no sign."""


def find(subjects: np.ndarray, times: np.ndarray, *, events_per_hour: int, regular_events: int) -> np.ndarray:
    """Mask of the rows whose subject is a robot by rate or regularity.

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
    order = np.lexsort((times, subjects))
    who, when = subjects[order], times[order]
    starts = np.flatnonzero(np.r_[True, (who[1:] != who[:-1]) | (when[1:] // HOUR_US != when[:-1] // HOUR_US)])
    is_robot[who[starts[np.diff(np.r_[starts, len(who)]) > events_per_hour]]] = True
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


def round_the_clock(subjects: np.ndarray, times: np.ndarray, *, active_hours: int) -> np.ndarray:
    """Mask of the rows whose subject is active at every hour of the day alike.

    The entropy is that of the hour of day over the clock hours with an event, however many, so that a busy hour counts once.
    It is corrected for small samples, else few hours would look like less than they are.

    Parameters
    ----------
    active_hours : clock hours with an event that have to be seen; 0: nobody is looked at.

    Source: G. Miller, Note on the bias of information estimates, 1955: add (categories − 1) / 2n.
    """
    if len(subjects) == 0 or active_hours == 0:
        return np.zeros(len(subjects), dtype=bool)
    num_subjects = int(subjects.max()) + 1
    first = int(times.min()) // HOUR_US
    span = int(times.max()) // HOUR_US - first + 1
    cells = np.unique(subjects.astype(np.int64) * span + (times // HOUR_US - first))
    who, hour = cells // span, (cells % span + first) % HOURS
    counts = np.bincount(who * HOURS + hour, minlength=num_subjects * HOURS).reshape(num_subjects, HOURS)
    num_hours = counts.sum(axis=1)
    nats = _entropy(counts, num_hours) + ((counts > 0).sum(axis=1) - 1) / (2 * np.maximum(num_hours, 1))
    is_robot = (num_hours >= active_hours) & (nats >= MIN_CLOCK_ENTROPY * np.log(HOURS))
    found: np.ndarray = is_robot[subjects]
    return found


def one_object(subjects: np.ndarray, objects: np.ndarray, times: np.ndarray, *, moments: int) -> np.ndarray:
    """Mask of the rows whose subject meets one object all the time.

    Parameters
    ----------
    objects : int codes [n].
    moments : distinct moments that have to be seen; 0: nobody is looked at.
    """
    if len(subjects) == 0 or moments == 0 or int(objects.max()) + 1 < MIN_OBJECTS:
        return np.zeros(len(subjects), dtype=bool)
    num_subjects = int(subjects.max()) + 1
    is_busy = np.bincount(subjects, minlength=num_subjects) >= moments
    rows = np.flatnonzero(is_busy[subjects])  # mostly few, so that the sort is cheap
    who, what, when = subjects[rows], objects[rows], times[rows]
    order = np.lexsort((when, what, who))
    who, what, when = who[order], what[order], when[order]
    is_new = np.r_[True, (who[1:] != who[:-1]) | (what[1:] != what[:-1]) | (when[1:] != when[:-1])][: len(who)]
    who, what = who[is_new], what[is_new]
    starts = np.flatnonzero(np.r_[True, (who[1:] != who[:-1]) | (what[1:] != what[:-1])][: len(who)])
    count, owner = np.diff(np.r_[starts, len(who)]).astype(np.float64), who[starts]
    total = np.bincount(owner, weights=count, minlength=num_subjects)
    share = count / total[owner]
    bits = np.bincount(owner, weights=-share * np.log2(share), minlength=num_subjects)
    is_robot = (total >= moments) & (bits <= MAX_OBJECT_BITS)
    found: np.ndarray = is_robot[subjects]
    return found


def _entropy(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Entropy of each row of counts, in nats."""
    share = counts / np.maximum(totals, 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-np.where(share > 0, share * np.log(share), 0.0).sum(axis=1))
