"""Exact search: blocks of float32 products (`Flat`), or an int8 scan whose candidates are scored anew in float32 (`Int8`).

Both give the k best by float32 products, ties to the lower place. `Int8` reads a quarter of the memory and proves that it has
lost nothing (`scan_kernel`); where vectors are so alike that more candidates remain than there is room for, the query is
answered by `Flat`. One query at a time runs in numba; from `FEW` queries on the integer products come from oneDNN
(`torch._int_mm`, VNNI or AMX where the processor has them). 100,000 × 64 on one core: see `benchmarks/recommender/exact.py`.

Shapes: B queries, N rows, D numbers of a vector, k results.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np

from gyral.model.retrieving import scan_kernel as kernel

FEW = 3
"""Queries from which on one product of matrices is cheaper than a scan each."""
MANY = 64
"""Queries that are answered together."""
ROWS, SCANNED = 8_192, 2_048
"""Rows a block of float32 and of integer products: with 64 queries these are 512 kB and stay in the cache of a core."""
TINY = 1e-20
MOST_TURNED = 2_048
SLACK = 2e-6
"""Relative rounding of float32 products and of the rotation, which the bound allows for."""

Hits = tuple[np.ndarray, np.ndarray]
"""Places (int64 [B, k], −1: none) and scores (float32 [B, k], −inf: none), best first."""
EVERY = np.zeros(0, np.uint8)


class Searcher(Protocol):
    """Finds rows of one matrix, which never changes."""

    kind: str

    def search(self, q_BD: np.ndarray, k: int, may_N: np.ndarray = EVERY) -> Hits: ...


class Flat:
    """Blocks of float32 products.

    Parameters
    ----------
    vectors_ND : float32; kept, not copied.
    """

    kind = "flat"

    def __init__(self, vectors_ND: np.ndarray) -> None:
        self.vectors_ND = vectors_ND

    def search(self, q_BD: np.ndarray, k: int, may_N: np.ndarray = EVERY) -> Hits:
        """The k best rows of each query.

        Parameters
        ----------
        may_N : uint8, 0 where a row may not be found; of length 0 all may.
        """
        num, queries = len(self.vectors_ND), len(q_BD)
        found, scores = none(queries, k)
        k = min(k, num)
        if not k or not queries:
            return found, scores
        places: list[np.ndarray] = []
        for start in range(0, num, ROWS):
            block_BN = q_BD @ self.vectors_ND[start : start + ROWS].T
            if len(may_N):
                block_BN[:, may_N[start : start + ROWS] == 0] = -np.inf
            some = min(k, block_BN.shape[1])
            # A little more than k: products in a block round otherwise than one by one, by which the best are ordered.
            more = min(some + 8, block_BN.shape[1])
            best = np.argpartition(-block_BN, more - 1, axis=1)[:, :more] if more < block_BN.shape[1] else _all(block_BN)
            there = np.take_along_axis(block_BN, best, axis=1) > -np.inf
            places.append(np.where(there, best + start, -1))
        candidates_BC = np.ascontiguousarray(np.concatenate(places, axis=1).astype(np.int64))
        kernel.best_of_many(self.vectors_ND, q_BD, candidates_BC, found[:, :k], scores[:, :k])
        return found, scores


class Int8:
    """The int8 scan.

    Parameters
    ----------
    vectors_ND : float32; kept, not copied. The scan adds D + 4 bytes a row.
    """

    kind = "int8"

    def __init__(self, vectors_ND: np.ndarray) -> None:
        self.vectors_ND = vectors_ND
        num, width = vectors_ND.shape
        self._turn_DD = _turn(width)
        self._rows_ND = np.empty((num, width), np.int8)
        self._scale_N = np.empty(num, np.float32)
        self._error = self._length = 0.0
        for start in range(0, num, ROWS):
            part = vectors_ND[start : start + ROWS] @ self._turn_DD
            scale = np.maximum(np.abs(part).max(axis=1) / np.float32(127), np.float32(TINY))
            whole = np.clip(np.rint(part / scale[:, None]), -127, 127)
            self._rows_ND[start : start + ROWS], self._scale_N[start : start + ROWS] = whole, scale
            missed = np.linalg.norm(part.astype(np.float64) / scale[:, None] - whole, axis=1)
            self._error = max(self._error, float(missed.max()))
            self._length = max(self._length, float((scale * np.linalg.norm(whole, axis=1)).max()))

    def search(self, q_BD: np.ndarray, k: int, may_N: np.ndarray = EVERY) -> Hits:
        """The k best rows of each query; see `Flat.search`."""
        found, scores = none(len(q_BD), k)
        k = min(k, len(self.vectors_ND))
        for start in range(0, len(q_BD) if k else 0, MANY):
            some = slice(start, start + MANY)
            self._search(q_BD[some], k, may_N, found[some, :k], scores[some, :k])
        return found, scores

    def _search(self, q_BD: np.ndarray, k: int, may_N: np.ndarray, found: np.ndarray, scores: np.ndarray) -> None:
        queries, num = len(q_BD), len(self.vectors_ND)
        torch = _torch() if queries >= FEW and q_BD.shape[1] > 1 else None  # of rows of one number it makes wrong sums
        most = 127.0 if torch is not None else min(32_767.0, 2.0**31 / (128.0 * q_BD.shape[1]))
        whole_BD, margin_B, more_B = self._query(q_BD, most)
        room = 8 * k + 1_024
        heap_Bk = np.empty((queries, k), np.float32)
        places_BC, uppers_BC = np.empty((queries, room), np.int64), np.empty((queries, room), np.float32)
        state_B3 = np.zeros((queries, 3), np.int64)
        if torch is not None:
            asked = torch.from_numpy(whole_BD.astype(np.int8))
            rows = torch.from_numpy(self._rows_ND)
            for start in range(0, num, SCANNED):
                products = torch._int_mm(asked, rows[start : start + SCANNED].t()).numpy()
                kernel.sift_many(
                    products, self._scale_N, margin_B, more_B, start, may_N, heap_Bk, places_BC, uppers_BC, state_B3
                )  # fmt: skip
        else:
            whole_BD = whole_BD.astype(np.int16)
            for row in range(queries):
                kernel.scan(
                    self._rows_ND, whole_BD[row], self._scale_N, margin_B[row], more_B[row], may_N,
                    heap_Bk[row], places_BC[row], uppers_BC[row], state_B3[row],
                )  # fmt: skip
        self._rank(q_BD, heap_Bk, places_BC, uppers_BC, state_B3, found, scores)
        for row in np.flatnonzero(state_B3[:, 2]).tolist():
            found[row : row + 1], scores[row : row + 1] = Flat(self.vectors_ND).search(q_BD[row : row + 1], k, may_N)

    def _query(self, q_BD: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries in whole numbers up to `most`, and the two terms of their bounds (see `scan_kernel`)."""
        exact = (q_BD @ self._turn_DD).astype(np.float64)
        scale_B = np.maximum(np.abs(exact).max(axis=1) / np.floor(most), TINY)
        whole = np.rint(exact / scale_B[:, None])
        length_B = np.linalg.norm(exact, axis=1) / scale_B
        missed_B = np.linalg.norm(exact / scale_B[:, None] - whole, axis=1)
        more_B = (missed_B + SLACK * length_B) * self._length
        return whole, *((each_B * (1 + 1e-5)).astype(np.float32) for each_B in (length_B * self._error, more_B))

    def _rank(
        self, q_BD: np.ndarray, heap_Bk: np.ndarray, places_BC: np.ndarray, uppers_BC: np.ndarray, state_B3: np.ndarray,
        found_Bk: np.ndarray, scores_Bk: np.ndarray,
    ) -> None:  # fmt: skip
        for row, (count, num, _) in enumerate(state_B3.tolist()):
            least = heap_Bk[row, 0] if count == heap_Bk.shape[1] else np.float32(-np.inf)
            kernel.best_of(
                self.vectors_ND, q_BD[row], places_BC[row, :num], uppers_BC[row, :num], least, found_Bk[row], scores_Bk[row]
            )


def _turn(width: int) -> np.ndarray:
    """A random rotation, the same each time, float32 [D, D]; products are what they were."""
    made = np.linalg.qr(np.random.default_rng(width).normal(size=(width, width)))[0] if width <= MOST_TURNED else np.eye(width)
    return made.astype(np.float32)


def none(queries: int, k: int) -> Hits:
    """Nothing found, to be filled."""
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def _all(block_BN: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(block_BN.shape[1]), block_BN.shape)


@functools.cache
def _torch() -> Any:
    """torch where it is installed and multiplies int8 rightly; None: the numba scan does all."""
    try:
        import torch

        random = np.random.default_rng(0)
        one, other = (random.integers(-127, 128, (size, 64)).astype(np.int8) for size in (5, 37))
        made = torch._int_mm(torch.from_numpy(one), torch.from_numpy(other).t()).numpy()
        if (made != one.astype(np.int32) @ other.T.astype(np.int32)).any():
            return None
    except (ImportError, RuntimeError, AttributeError):
        return None
    return torch
