"""May this version be served? Candidate and published version are asked about the same recent visits.

A poisoned stream (robots below the limit, a broken sender) makes what is learned worse at foretelling the people who were there
before. So the last visits of subjects who already had a past are kept with the past they had, and a version whose mean loss on
them is more than `limit` nats above the published one's, or above that of one of up to 40 publications ago (or harm would pass
in small steps), is not published. The candidate has learned those very visits, so it has a head start: what is refused is worse
in spite of it, and small harm passes. After `patience` refusals in a row the tables are to go back to the published version.

Objects that came between two versions take probability from the older ones, which is no harm: a catalogue that grew by a fifth
in twenty publications of a shop's first days cost .14 nats so. Hence both are asked about the objects that both know, and the
whole softmax of the candidate may be worse by the logarithm of the growth besides: what new objects of average popularity cost.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from gyral.model.live import tables as t
from gyral.model.live import visits as v
from gyral.model.live.visits import Objects
from gyral.train.online_visits import Visit, Visits

WINDOW = 64
ANCHORED = 20
"""Publications after which the older version of comparison is a newer one."""
LEAST = 16
"""Visits below which everything passes."""


class Version(NamedTuple):
    """Weights as they were."""

    objects: Objects
    r_VD: np.ndarray
    small_S: np.ndarray


class Verdict(NamedTuple):
    """What was measured, in nats a visit; `goes_back` once there were refusals enough."""

    passes: bool
    candidate: float
    published: float
    goes_back: bool


class Gate:
    """Of one learner.

    Parameters
    ----------
    limit : nats a visit that a version may be worse; infinite: all pass.
    """

    def __init__(self, limit: float, patience: int = 4, window: int = WINDOW) -> None:
        self._limit, self._patience = limit, patience
        self._window: deque[Visit] = deque(maxlen=window)
        self._published: Version | None = None
        self._anchor: Version | None = None
        self._passed = 0
        self.refused = 0
        self.in_a_row = 0

    def saw(self, visits: list[Visit]) -> None:
        """Visits that were learned: those of subjects with a past count, one of each in a step."""
        chosen: dict[int, Visit] = {}
        for visit in visits:
            if visit.past_P[0] > 0:
                chosen.setdefault(visit.key, visit)
        self._window.extend(chosen.values())

    def check(self, model: Visits, hour: int) -> Verdict:
        """Ask both; a candidate that passes becomes the published version."""
        candidate = _version(model, hour)
        if self._published is None or len(self._window) < LEAST or len(model.names) > v.MAX_SCORED:
            return self._pass(candidate, np.nan, np.nan)
        window = list(self._window)
        p_BE = model.tables.pull(t.SUBJECT, np.array([visit.key for visit in window], np.int64))
        older = [version for version in (self._published, self._anchor) if version is not None]
        pairs = [_compared(candidate, each, window, p_BE) for each in older]
        ours, theirs = max(pairs, key=lambda pair: pair[0] - pair[1] if np.isfinite(pair[0]) else np.inf)
        if np.isfinite(ours) and ours <= theirs + self._limit:
            return self._pass(candidate, ours, theirs)
        self.refused += 1
        self.in_a_row += 1
        return Verdict(False, ours, theirs, self.in_a_row >= self._patience)

    def went_back(self) -> None:
        """The tables are the published ones again; the window, which saw what did harm, begins anew."""
        self._window.clear()
        self.in_a_row = 0

    def _pass(self, candidate: Version, ours: float, theirs: float) -> Verdict:
        if self._passed % ANCHORED == 0:
            self._anchor = self._published
        self._passed += 1
        self._published, self.in_a_row = candidate, 0
        return Verdict(True, ours, theirs, False)


def _version(model: Visits, hour: int) -> Version:
    codes = np.arange(len(model.names))
    if len(codes) > v.MAX_SCORED:
        codes = codes[:0]
    return Version(
        model.objects(codes, hour), model.tables.pull(t.MET, codes), model.tables.pull(t.SMALL, np.zeros(1, np.int64))[0]
    )


def _compared(candidate: Version, older: Version, window: list[Visit], p_BE: np.ndarray) -> tuple[float, float]:
    """Mean losses of both on what the older one knows; the candidate's less what its new objects may cost, if that is more."""
    num = len(older.r_VD)
    theirs = _mean_loss(older, window, p_BE, num)
    whole = _mean_loss(candidate, window, p_BE, num) - float(np.log(max(len(candidate.r_VD), 1) / max(num, 1)))
    objects = Objects(*(each[:num] for each in candidate.objects))
    known = _mean_loss(Version(objects, candidate.r_VD[:num], candidate.small_S), window, p_BE, num)
    return float(np.maximum(known, whole)), theirs  # not a number where either is


def _mean_loss(version: Version, window: list[Visit], p_BE: np.ndarray, num: int) -> float:
    """Over what visits took of the first `num` objects: one that came later is nobody's fault."""
    known = [visit.codes[visit.codes < num] for visit in window]
    rows = [row for row, codes in enumerate(known) if len(codes)]
    if not rows:
        return float("nan")
    past = v.past_of(np.stack([window[row].past_P for row in rows]), np.array([float(window[row].hour) for row in rows]))
    inside = past.code_N < len(version.r_VD)
    past = past._replace(owner_N=past.owner_N[inside], code_N=past.code_N[inside], small_N3=past.small_N3[inside])
    lost = v.losses(version.objects, past, version.r_VD[past.code_N], p_BE[rows], version.small_S, [known[row] for row in rows])
    return float(lost.mean())
