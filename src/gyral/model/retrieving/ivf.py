"""Search in cells (faiss `IVF…,SQ8`), its candidates scored anew in float32, tuned to a stated recall.

Above some 100,000 vectors an exact scan is too slow; here a query looks into `probes` of √N·4 cells. Inverted lists and not a
graph, because a catalogue is embedded anew all the time: at 1,000,000 × 64 they are built in 4 CPU-s, HNSW in 210, and on
vectors without clusters they find more at the same speed. Scoring four times k candidates anew costs about 3 % of a search and
gives back what eight bits had lost (recall .95 → .97 at equal probes), so fewer probes are needed for the same recall.

`tuned` sets the fewest probes that reach the recall, on queries whose exact answers are known, and says what others reach.
Needs the extra `index`.

Shapes: B queries, N rows, C cells, D numbers of a vector, k results.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gyral.errors import MissingExtra
from gyral.model.retrieving import cells
from gyral.model.retrieving import scan_kernel as kernel
from gyral.model.retrieving.exact import EVERY, Hits, Searcher, none

POINTS = 39
"""Vectors a cell, from which its centre is found."""
ROUNDS = 10
"""Of k-means."""
RANGED = 40_960
"""Vectors whose numbers say what eight bits have to span."""
MORE = 4
"""Candidates that are scored anew, times k."""
LEAST_CELLS, MOST_CELLS = 4, 65_536


class Ivf:
    """faiss's inverted lists.

    Parameters
    ----------
    vectors_ND : float32; kept, not copied. The lists add D + 12 bytes a row.
    probes : cells that a query looks into; `tuned` sets it.

    Raises
    ------
    MissingExtra : faiss is not installed.
    """

    kind = "ivf"

    def __init__(self, vectors_ND: np.ndarray, *, seed: int = 0, probes: int = 16) -> None:
        faiss = faiss_()
        num, width = vectors_ND.shape
        self.vectors_ND = vectors_ND
        self.cells = int(np.clip(2 ** round(np.log2(max(4 * num**0.5, 1))), LEAST_CELLS, max(min(num, MOST_CELLS), 1)))
        self.probes = min(probes, self.cells)
        self._faiss = faiss
        self._index: Any = faiss.index_factory(width, f"IVF{self.cells},SQ8", faiss.METRIC_INNER_PRODUCT)
        some = np.sort(np.random.default_rng(seed).choice(num, min(num, POINTS * self.cells), replace=False))
        some_SD = np.ascontiguousarray(vectors_ND[some])
        self._index.quantizer.add(cells.centres(faiss, some_SD, self.cells, ROUNDS, seed))
        self._index.train(some_SD[:: -(-len(some_SD) // RANGED)])  # what eight bits span; it has its centres
        cell_N = cells.nearest(faiss, vectors_ND, self._index.quantizer.reconstruct_n(0, self.cells), seed)
        self._index.add_core(num, faiss.swig_ptr(vectors_ND), None, faiss.swig_ptr(cell_N))
        self._cell_N = cell_N.astype(np.int32)

    def search(self, q_BD: np.ndarray, k: int, may_N: np.ndarray = EVERY) -> Hits:
        """About the k best rows of each query; see `Flat.search`. Fewer than k may come where few rows may be found."""
        found, scores = none(len(q_BD), k)
        num = len(self.vectors_ND)
        k = min(k, num)
        if not k or not len(q_BD):
            return found, scores
        wanted, probes, options = min(MORE * k, num), self.probes, {}
        if len(may_N):
            packed = np.packbits(may_N, bitorder="little")
            options["sel"] = self._faiss.IDSelectorBitmap(num, self._faiss.swig_ptr(packed))
            share = max(float(np.count_nonzero(may_N)) / num, 1e-9)
            probes = min(self.cells, int(probes / share) + 1)  # the best of few are farther away
        parameters = self._faiss.SearchParametersIVF(nprobe=probes, **options)
        _, places_BC = self._index.search(q_BD, wanted, params=parameters)
        kernel.best_of_many(self.vectors_ND, q_BD, places_BC.astype(np.int64), found[:, :k], scores[:, :k])
        return found, scores

    def ranks(self, q_BD: np.ndarray, places_Bk: np.ndarray) -> np.ndarray:
        """How many cells each query looks into before that of each of its places, int64, places below 0 left out."""
        _, order_BC = self._index.quantizer.search(q_BD, self.cells)
        rank_BC = np.empty_like(order_BC)
        np.put_along_axis(rank_BC, order_BC, np.broadcast_to(np.arange(self.cells), order_BC.shape), axis=1)
        there_Bk = places_Bk >= 0
        return np.asarray(rank_BC[np.nonzero(there_Bk)[0], self._cell_N[places_Bk[there_Bk]]])


class Tuned(NamedTuple):
    """Recall that was asked for, what other queries than those of the tuning reach, and with how many probes of how many."""

    stated: float
    recall: float
    probes: int
    cells: int
    queries: int


def tuned(index: Ivf, exact: Searcher, q_BD: np.ndarray, k: int, recall: float) -> Tuned:
    """Set `index.probes` to the fewest that find this share of the k best of two thirds of the queries; measure on the others.

    The share has to be reached by one standard error more: the fewest probes that reach it on some queries fall short of it on
    half of all sets of others. A true neighbour is found when its cell is among those that are looked into, so the rank of its
    cell in the query's order of cells says for every number of probes at once how much is found. One search corrects that for
    what eight bits lose.
    """
    cut = max(len(q_BD) * 2 // 3, 1)
    truth_Bk, _ = exact.search(q_BD, k)
    least_B = np.sort(index.ranks(q_BD[:cut], truth_Bk[:cut]))
    index.probes = _enough(least_B, recall)
    shares_B = shares_found(index.search(q_BD[:cut], k)[0], truth_Bk[:cut])
    missed = recall - float(shares_B.mean())  # what eight bits still lose
    error = float(shares_B.std()) / cut**0.5
    index.probes = _enough(least_B, min(recall + max(missed, 0.0) + error, 1.0))
    kept_B = slice(cut if cut < len(q_BD) else 0, None)
    told = share_found(index.search(q_BD[kept_B], k)[0], truth_Bk[kept_B])
    return Tuned(recall, round(told, 4), index.probes, index.cells, len(q_BD))


def share_found(found_Bk: np.ndarray, truth_Bk: np.ndarray) -> float:
    """Recall: how many of what is to be found (places ≥ 0) is there."""
    wanted = truth_Bk >= 0
    return float(_hits(found_Bk, truth_Bk).sum() / max(wanted.sum(), 1))


def shares_found(found_Bk: np.ndarray, truth_Bk: np.ndarray) -> np.ndarray:
    """Recall of each query, float64 [B]; one where nothing is to be found."""
    wanted_B = (truth_Bk >= 0).sum(axis=1)
    share_B: np.ndarray = np.where(wanted_B, _hits(found_Bk, truth_Bk).sum(axis=1) / np.maximum(wanted_B, 1), 1.0)
    return share_B


def _hits(found_Bk: np.ndarray, truth_Bk: np.ndarray) -> np.ndarray:
    hits_Bk: np.ndarray = (truth_Bk[:, :, None] == found_Bk[:, None, :]).any(axis=2) & (truth_Bk >= 0)
    return hits_Bk


def faiss_() -> Any:
    """The module, in the one thread that calls it.

    Raises
    ------
    MissingExtra : it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MissingExtra("faiss-cpu", "index", "an index of cells") from None
    return faiss


def _enough(ranks: np.ndarray, recall: float) -> int:
    """Probes that reach this share of the sorted ranks."""
    return int(ranks[min(max(int(np.ceil(recall * len(ranks))), 1), len(ranks)) - 1]) + 1 if len(ranks) else 1
