"""An index that changes while it is asked: one view at a time, replaced by one reference.

A view is a base that never changes, rows of it that are gone, and a tail of what came since, which is searched exactly. So an
upsert costs a copy of the tail and of one byte a row of the base, no search waits for it, and no answer mixes two versions.
Where the tail has grown to a sixteenth of an exact base, the two are joined at once (55 ms of CPU at 100,000 × 64); a base of
cells is joined when `compact` is called, since that takes seconds.

`auto` takes `flat` below 4,000 rows, `int8` up to 150,000 and cells above, where one core is equally fast for both at recall
.95 (measured: `benchmarks/recommender/crossover.py`).

Vectors are found by inner product: of length one, that is the cosine.

Shapes: B queries, N rows, D numbers of a vector, k results.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np

from gyral.errors import ConflictError, InputError, MissingExtra
from gyral.model.retrieving.exact import EVERY, Flat, Int8, Searcher
from gyral.model.retrieving.ivf import Ivf, Tuned, faiss_, tuned

Kind = Literal["auto", "flat", "int8", "ivf"]
INT8_FROM, CELLS_FROM = 4_000, 150_000
SAMPLE, SAMPLED = 1_500, 10**9
"""Queries by which cells are tuned at most, and these times rows: exact search of 1,000 in 1,000,000 takes 3 CPU-s."""
TAIL_SHARE, TAIL_LEAST = 16, 4_096
FEW_ALLOWED = 20_000
"""Up to so many allowed rows are copied and scored one by one; of more, the base is searched and others are passed over."""
LARGEST = 1e15


class Found(NamedTuple):
    """Ids (int64 [B, k], −1: none) and scores (float32 [B, k], −inf: none), best first, ties to the lower id."""

    ids_Bk: np.ndarray
    scores_Bk: np.ndarray
    version: str


@dataclass(frozen=True)
class Card:
    """What is known of a base: `recall` is measured against exact search, on queries that it was not tuned by."""

    version: str
    kind: str
    rows: int
    width: int
    build_cpu_s: float
    recall: float = 1.0
    stated: float = 1.0
    probes: int = 0
    cells: int = 0
    queries: int = 0
    asked_by: str = ""

    def told(self) -> dict[str, object]:
        """As it goes into a model's card."""
        return asdict(self)


class View(NamedTuple):
    """One state of an index: ids of the base, ascending; `is_gone` of them, or empty; ids and vectors of the tail."""

    version: str
    base: Searcher
    ids_N: np.ndarray
    vectors_ND: np.ndarray
    is_gone_N: np.ndarray
    tail_ids_T: np.ndarray
    tail_TD: np.ndarray
    card: Card


class Index:
    """Vectors by id.

    Parameters
    ----------
    kind : `auto` by the number of rows; `ivf` needs the extra `index`.
    recall : share of the k best that cells must find; exact kinds find all.
    k : by which recall is counted.
    """

    def __init__(self, kind: Kind = "auto", *, recall: float = 0.95, k: int = 10, seed: int = 0) -> None:
        if not 0 < recall <= 1:
            raise InputError(f"`recall` is {recall}", hint="a share of the k best, such as 0.95")
        self._kind, self._recall, self._k, self._seed = kind, recall, k, seed
        self._view: View | None = None
        self._building, self._writing = threading.Lock(), threading.Lock()

    @property
    def version(self) -> str:
        """Of what it answers with; empty before anything was built."""
        return self._view.version if self._view is not None else ""

    @property
    def card(self) -> dict[str, object]:
        """Of the base, with how much has changed since."""
        view = self._view
        if view is None:
            return {}
        return {**view.card.told(), "tail": len(view.tail_ids_T), "gone": int(np.count_nonzero(view.is_gone_N))}

    def __len__(self) -> int:
        view = self._view
        if view is None:
            return 0
        return len(view.ids_N) - int(np.count_nonzero(view.is_gone_N)) + len(view.tail_ids_T)

    def build(
        self,
        vectors_ND: np.ndarray,
        version: str,
        ids_N: np.ndarray | None = None,
        queries_BD: np.ndarray | None = None,
    ) -> Card:
        """Make a base and answer with it; until then what was there answers. Changes to the version before are forgotten.

        Parameters
        ----------
        ids_N : int64, ≥ 0, each once; None: 0 … N − 1.
        queries_BD : by which cells are tuned, best some that were really asked; None: rows of the base.

        Raises
        ------
        InputError : a number is not finite, an id comes twice, or lengths differ.
        """
        vectors_ND = _checked(vectors_ND, None)
        ids = np.arange(len(vectors_ND)) if ids_N is None else np.asarray(ids_N, np.int64)
        _check_ids(ids, len(vectors_ND))
        if (np.diff(ids) <= 0).any():
            order = np.argsort(ids, kind="stable")
            ids, vectors_ND = ids[order], np.ascontiguousarray(vectors_ND[order])
        with self._building:
            view = self._made(vectors_ND, version, ids, queries_BD)
            with self._writing:
                self._view = view
        return view.card

    def search(
        self,
        q_BD: np.ndarray,
        k: int,
        exclude: Sequence[np.ndarray] | None = None,
        allowed: np.ndarray | None = None,
    ) -> Found:
        """The k best of each query.

        Parameters
        ----------
        exclude : of each query, ids that it may not find (what was met already).
        allowed : ids that all queries may find, or a bitmap by id (bool; what is beyond its end may not be found).

        Raises
        ------
        InputError : a number is not finite, or a width is another.
        """
        view = self._view
        if view is None:
            raise InputError("nothing was built yet", hint="call `build` before `search`")
        q_BD = _checked(q_BD, view.vectors_ND.shape[1])
        if exclude is not None and len(exclude) != len(q_BD):
            raise InputError(f"`exclude` has {len(exclude)} parts for {len(q_BD)} queries")
        more = max((len(each) for each in exclude or ()), default=0)
        ids_Bk, scores_Bk = self._of_base(view, q_BD, k + more, allowed)
        if len(view.tail_ids_T):
            places, scores = Flat(view.tail_TD).search(q_BD, k + more, _may(view.tail_ids_T, allowed))
            ids_Bk = np.concatenate([ids_Bk, _ids(view.tail_ids_T, places)], axis=1)
            scores_Bk = np.concatenate([scores_Bk, scores], axis=1)
        if exclude is not None:
            for row, each in enumerate(exclude):
                met = np.isin(ids_Bk[row], each)
                ids_Bk[row, met], scores_Bk[row, met] = -1, -np.inf
        if ids_Bk.shape[1] > k or exclude is not None:
            order = np.lexsort((ids_Bk, -scores_Bk), axis=1)[:, :k]
            ids_Bk, scores_Bk = (np.take_along_axis(each, order, axis=1) for each in (ids_Bk, scores_Bk))
        return Found(ids_Bk, scores_Bk, view.version)

    def upsert(self, ids: np.ndarray, vectors: np.ndarray, version: str = "") -> None:
        """Put vectors; of an id that is given twice the last counts.

        Parameters
        ----------
        version : that they belong to; empty: to what is there.

        Raises
        ------
        ConflictError : another version answers by now.  InputError : see `build`.
        """
        with self._writing:
            self._view = self._put(self._now(version), ids, vectors)

    def change(self, ids: np.ndarray, vectors: np.ndarray, gone: np.ndarray, version: str) -> None:
        """Put some vectors and take others out, seen together and under a new version; raises as `upsert` does."""
        with self._writing:
            view = self._put(self._now("")._replace(version=version), ids, vectors)
            self._view = _without(view, np.asarray(gone, np.int64))

    def _put(self, view: View, ids: np.ndarray, vectors: np.ndarray) -> View:
        vectors = _checked(vectors, view.vectors_ND.shape[1])
        ids = np.asarray(ids, np.int64)
        if len(ids) != len(vectors) or (ids < 0).any():
            raise InputError(f"{len(ids)} ids for {len(vectors)} vectors, ids from 0 on")
        _, last = np.unique(ids[::-1], return_index=True)
        last = np.sort(len(ids) - 1 - last)
        view = _without(view, ids[last])
        tail = np.concatenate([view.tail_ids_T, ids[last]]), np.concatenate([view.tail_TD, vectors[last]])
        view = view._replace(tail_ids_T=tail[0], tail_TD=tail[1])
        if view.base.kind != "ivf" and len(tail[0]) > max(TAIL_LEAST, len(view.ids_N) // TAIL_SHARE):
            view = self._made(*_joined(view), queries_BD=None)
        return view

    def delete(self, ids: np.ndarray, version: str = "") -> None:
        """Take vectors out; ids that are not there are passed over. Raises as `upsert` does."""
        with self._writing:
            self._view = _without(self._now(version), np.asarray(ids, np.int64))

    def compact(self, queries_BD: np.ndarray | None = None) -> Card | None:
        """Join the tail with the base, while searches and changes go on; None where another version came meanwhile."""
        with self._building:
            before = self._view
            if before is None:
                return None
            made = self._made(*_joined(before), queries_BD=queries_BD)
            with self._writing:
                now = self._view
                if now is None or now.base is not before.base:
                    return None
                self._view = _caught_up(made, before, now)
            return made.card

    def _made(self, vectors_ND: np.ndarray, version: str, ids_N: np.ndarray, queries_BD: np.ndarray | None) -> View:
        start, num, told = time.thread_time(), len(ids_N), None
        kind, asked_by = self._chosen(num), ""
        base: Searcher
        if kind == "ivf":
            base = Ivf(vectors_ND, seed=self._seed)
            asked_by = "rows of the index" if queries_BD is None else "queries"
            told = self._tune(base, vectors_ND, queries_BD)
        else:
            base = Int8(vectors_ND) if kind == "int8" else Flat(vectors_ND)
        spent = round(time.thread_time() - start, 3)
        card = Card(version, kind, num, vectors_ND.shape[1], spent)
        if told is not None:
            numbers = (told.recall, told.stated, told.probes, told.cells, told.queries)
            card = Card(version, kind, num, vectors_ND.shape[1], spent, *numbers, asked_by)
        nothing = np.zeros(0, np.int64), np.zeros((0, vectors_ND.shape[1]), np.float32)
        return View(version, base, ids_N, vectors_ND, np.zeros(0, bool), *nothing, card)

    def _chosen(self, num: int) -> str:
        if self._kind != "auto":
            return self._kind if num or self._kind != "ivf" else "flat"
        if num < INT8_FROM:
            return "flat"
        if num < CELLS_FROM:
            return "int8"
        try:
            faiss_()
        except MissingExtra:
            return "int8"
        return "ivf"

    def _tune(self, base: Ivf, vectors_ND: np.ndarray, queries_BD: np.ndarray | None) -> Tuned:
        random = np.random.default_rng(self._seed)
        asked = vectors_ND if queries_BD is None else _checked(queries_BD, vectors_ND.shape[1])
        most = min(SAMPLE, max(SAMPLED // max(len(vectors_ND), 1), 300))
        some = asked[random.permutation(len(asked))[:most]]
        exact = Int8(vectors_ND)
        if queries_BD is None:  # each row finds itself, which says nothing
            return tuned(base, exact, np.ascontiguousarray(some), self._k + 1, self._recall)
        return tuned(base, exact, np.ascontiguousarray(some), self._k, self._recall)

    def _of_base(self, view: View, q_BD: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        may = _may(view.ids_N, allowed)
        if len(view.is_gone_N):
            may = (~view.is_gone_N).view(np.uint8) if not len(may) else may & ~view.is_gone_N
        if (
            len(may)
            and (count := np.count_nonzero(may)) <= max(FEW_ALLOWED, 1)
            and view.base.kind != "flat"
            and count * 8 < len(may)
        ):
            some = np.flatnonzero(may)
            places, scores = Flat(np.ascontiguousarray(view.vectors_ND[some])).search(q_BD, k)
            return _ids(view.ids_N[some], places), scores
        places, scores = view.base.search(q_BD, k, may)
        return _ids(view.ids_N, places), scores

    def _now(self, version: str) -> View:
        view = self._view
        if view is None:
            raise InputError("nothing was built yet", hint="call `build` first")
        if version and version != view.version:
            raise ConflictError(
                f"the change is of version `{version}`, the index has `{view.version}`", hint="take vectors of the same model"
            )
        return view


def _without(view: View, ids: np.ndarray) -> View:
    """The same, without some ids."""
    place = np.searchsorted(view.ids_N, ids)
    inside = place < len(view.ids_N)
    place = place[inside][view.ids_N[place[inside]] == ids[inside]]
    if len(place):
        gone = view.is_gone_N.copy() if len(view.is_gone_N) else np.zeros(len(view.ids_N), bool)
        gone[place] = True
        view = view._replace(is_gone_N=gone)
    stays = ~np.isin(view.tail_ids_T, ids)
    if not stays.all():
        view = view._replace(tail_ids_T=view.tail_ids_T[stays], tail_TD=view.tail_TD[stays])
    return view


def _joined(view: View) -> tuple[np.ndarray, str, np.ndarray]:
    """Vectors, version and ids of all that is there, by id."""
    stays = ~view.is_gone_N if len(view.is_gone_N) else np.ones(len(view.ids_N), bool)
    ids = np.concatenate([view.ids_N[stays], view.tail_ids_T])
    vectors = np.concatenate([view.vectors_ND[stays], view.tail_TD])
    order = np.argsort(ids, kind="stable")
    return np.ascontiguousarray(vectors[order]), view.version, ids[order]


def _caught_up(made: View, before: View, now: View) -> View:
    """A joined view with what has changed since it was begun: the tail's rows that are new, and ids that are no more there."""
    was, is_ = _joined(before)[2], _joined(now)[2]
    view = _without(made, np.setdiff1d(was, is_))
    old = {int(id_): row for id_, row in zip(before.tail_ids_T, before.tail_TD, strict=True)}
    changed = [
        at for at, id_ in enumerate(now.tail_ids_T.tolist())
        if id_ not in old or not np.array_equal(old[id_], now.tail_TD[at])
    ]  # fmt: skip
    view = _without(view, now.tail_ids_T[changed])
    return view._replace(tail_ids_T=now.tail_ids_T[changed], tail_TD=now.tail_TD[changed])


def _may(ids: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """uint8 by place; empty: all."""
    if allowed is None:
        return EVERY
    allowed = np.asarray(allowed)
    may = np.zeros(len(ids), np.uint8)
    if allowed.dtype == bool:
        inside = ids < len(allowed)
        may[inside] = allowed[ids[inside]]
        return may
    place = np.searchsorted(ids, allowed) if len(ids) == 0 or (np.diff(ids) > 0).all() else None
    if place is None:  # a tail is not sorted
        return np.asarray(np.isin(ids, allowed).view(np.uint8))
    inside = place < len(ids)
    place = place[inside][ids[place[inside]] == allowed[inside]]
    may[place] = 1
    return may


def _ids(ids: np.ndarray, places_Bk: np.ndarray) -> np.ndarray:
    if not len(ids):
        return np.full(places_Bk.shape, -1, np.int64)
    return np.where(places_Bk >= 0, ids[np.maximum(places_Bk, 0)], -1)


def _checked(vectors_ND: np.ndarray, width: int | None) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors_ND, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] == 0 or (width is not None and vectors.shape[1] != width):
        raise InputError(f"vectors have the shape {vectors.shape}", hint=f"rows of {width or 'one or more'} numbers")
    if vectors.size and not float(np.abs(vectors).max()) < LARGEST:
        raise InputError("a vector has a number that is not finite or far too large", hint="look for rows of NaN")
    return vectors


def _check_ids(ids: np.ndarray, num: int) -> None:
    if len(ids) != num or (num and int(ids.min()) < 0):
        raise InputError(f"{len(ids)} ids for {num} vectors, ids from 0 on")
    if len(np.unique(ids)) != num:
        raise InputError("an id is there twice", hint="give each vector an id of its own")
