"""The numba kernels of the exact scan: integer scores → candidates that provably hold the k best → their float32 scores.

A row x is stored as s · x̂ with x̂ in int8, so its score with a query q (stored as t · q̂) is known up to

    |q·x / t − s·(q̂·x̂)|  ≤  s · |q|/t · c  +  |q/t − q̂| · r

where c is the largest |x/s − x̂| of all rows and r the largest |s·x̂| (Cauchy-Schwarz, twice): `margin` = c·|q|/t, `more` the
second term. Every row whose upper bound reaches the k-th largest lower bound is a candidate, so nothing is lost: recall is 1 by
proof, not by over-fetching. On vectors with a decaying spectrum (64 numbers, 100,000 rows, k = 10) that leaves 30 candidates
where rows were turned at random before, so that no number of theirs is much larger than the others, and 69 where they were not.

Most blocks of scores have none above the bound: they are counted with one comparison a score, which the compiler vectorizes.
All functions release the interpreter and use one thread: a serving worker is a process.

Shapes: B queries, N rows, D numbers of a vector, C room for candidates, k results.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BLOCK = 64
ROWS = 4_096


@njit(cache=True, nogil=True)
def _push(heap: np.ndarray, count: int, value: np.float32) -> int:
    """Keep the `len(heap)` largest: a heap with the smallest of them first."""
    size = len(heap)
    if count < size:
        at = count
        while at > 0 and value < heap[(at - 1) >> 1]:
            heap[at] = heap[(at - 1) >> 1]
            at = (at - 1) >> 1
        heap[at] = value
        return count + 1
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value
    return count


@njit(cache=True, nogil=True)
def _squeeze(places: np.ndarray, uppers: np.ndarray, num: int, least: np.float32) -> int:
    """Candidates that the bound, which has risen, still lets through."""
    kept = 0
    for at in range(num):
        if uppers[at] >= least:
            places[kept], uppers[kept] = places[at], uppers[at]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _hits(scores: np.ndarray, scale: np.ndarray, margin: np.float32, least: np.float32) -> int:
    hits: Any = np.int32(0)
    for at in range(len(scores)):
        hits += np.int32(scale[at] * (np.float32(scores[at]) + margin) >= least)
    return hits  # type: ignore[no-any-return]


@njit(cache=True, nogil=True)
def sift(
    scores: np.ndarray, scale: np.ndarray, margin: np.float32, more: np.float32, start: int, may: np.ndarray,
    heap: np.ndarray, places: np.ndarray, uppers: np.ndarray, state: np.ndarray,
) -> None:  # fmt: skip
    """Go through integer scores of rows from `start` on.

    Parameters
    ----------
    scores : int32 of some rows.
    scale : float32 [N], the s of all rows.
    margin, more : of the bound, see above.
    may : uint8 [N], 0 where a row may not be found; of length 0 all may.
    heap, places, uppers : k lower bounds, and candidates with their upper bounds; filled over several calls.
    state : int64: how many lower bounds and candidates there are, and 1 where the room was too small.
    """
    count, num = state[0], state[1]
    k, room = len(heap), len(places)
    least = heap[0] if count == k else np.float32(-np.inf)
    for first in range(0, len(scores), BLOCK):
        last = min(first + BLOCK, len(scores))
        part, by_part = scores[first:last], scale[start + first : start + last]
        if _hits(part, by_part, margin, least - more) == 0:
            continue
        for at in range(len(part)):
            by = by_part[at]
            upper = by * (np.float32(part[at]) + margin) + more
            if upper < least or (len(may) and may[start + first + at] == 0):
                continue
            if num == room:
                num = _squeeze(places, uppers, num, least)
                if num == room:
                    state[2] = 1
                    return
            places[num], uppers[num] = start + first + at, upper
            num += 1
            lower = by * (np.float32(part[at]) - margin) - more
            if count < k or lower > least:
                count = _push(heap, count, lower)
                if count == k:
                    least = heap[0]
    state[0], state[1] = count, num


@njit(cache=True, nogil=True)
def scan(
    rows_ND: np.ndarray, q_D: np.ndarray, scale: np.ndarray, margin: np.float32, more: np.float32, may: np.ndarray,
    heap: np.ndarray, places: np.ndarray, uppers: np.ndarray, state: np.ndarray,
) -> None:  # fmt: skip
    """`sift` of the products of int8 rows with one int16 query."""
    scores = np.empty(ROWS, np.int32)
    num, width = rows_ND.shape
    for start in range(0, num, ROWS):
        last = min(start + ROWS, num)
        for place in range(start, last):
            row = rows_ND[place]
            total = np.int32(0)
            for at in range(width):
                total += np.int32(row[at]) * np.int32(q_D[at])
            scores[place - start] = total
        sift(scores[: last - start], scale, margin, more, start, may, heap, places, uppers, state)
        if state[2]:
            return


@njit(cache=True, nogil=True)
def sift_many(
    scores_BN: np.ndarray, scale: np.ndarray, margin_B: np.ndarray, more_B: np.ndarray, start: int, may: np.ndarray,
    heap_Bk: np.ndarray, places_BC: np.ndarray, uppers_BC: np.ndarray, state_B3: np.ndarray,
) -> None:  # fmt: skip
    """`sift` for each of some queries."""
    for row in range(len(scores_BN)):
        if state_B3[row, 2] == 0:
            sift(
                scores_BN[row], scale, margin_B[row], more_B[row], start, may,
                heap_Bk[row], places_BC[row], uppers_BC[row], state_B3[row],
            )  # fmt: skip


@njit(cache=True, nogil=True, fastmath=True)
def _product(one: np.ndarray, other: np.ndarray) -> np.float32:
    total = np.float32(0)
    for at in range(len(one)):
        total += one[at] * other[at]
    return total


@njit(cache=True, nogil=True)
def best_of(
    vectors_ND: np.ndarray, q_D: np.ndarray, places: np.ndarray, uppers: np.ndarray, least: np.float32,
    found_k: np.ndarray, scores_k: np.ndarray,
) -> None:  # fmt: skip
    """The best of candidates by their float32 products, ties to the lower place; places below 0 are none.

    Parameters
    ----------
    uppers, least : candidates below the final bound are not looked at; of length 0 all are.
    found_k, scores_k : int64 and float32, filled from the front; the rest is −1 and −inf.
    """
    k, count = len(found_k), 0
    found_k[:] = -1
    scores_k[:] = -np.inf
    for at in range(len(places)):
        place = places[at]
        if place < 0 or (len(uppers) and uppers[at] < least):
            continue
        value = _product(vectors_ND[place], q_D)
        if count == k and (value < scores_k[k - 1] or (value == scores_k[k - 1] and place > found_k[k - 1])):
            continue
        to = count if count < k else k - 1
        while to > 0 and (value > scores_k[to - 1] or (value == scores_k[to - 1] and place < found_k[to - 1])):
            scores_k[to], found_k[to] = scores_k[to - 1], found_k[to - 1]
            to -= 1
        scores_k[to], found_k[to] = value, place
        count = min(count + 1, k)


@njit(cache=True, nogil=True)
def best_of_many(
    vectors_ND: np.ndarray, q_BD: np.ndarray, places_BC: np.ndarray, found_Bk: np.ndarray, scores_Bk: np.ndarray
) -> None:
    """`best_of` for each of some queries."""
    nothing = np.empty(0, np.float32)
    for row in range(len(q_BD)):
        best_of(vectors_ND, q_BD[row], places_BC[row], nothing, np.float32(0), found_Bk[row], scores_Bk[row])
