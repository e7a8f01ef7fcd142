"""Item–item weights in closed form, and the kernels that answer from them.

Sums over histories run in one thread in a fixed order, solves in float64: the same interactions give the same weights.
Kernels are numba (`nogil`, cached on disk); each has a numpy oracle in the tests.

Shapes: S subjects, M objects in the dense part (the head), n history entries.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MAX_GRAM_HISTORY = 512
"""A history longer than this adds only its strongest entries to the Gram matrix: its cost is quadratic."""


@njit(cache=True, nogil=True)
def gram(indptr: np.ndarray, items: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """XᵀX of sparse histories, float64 [M, M]; entries below 0 are outside the head."""
    out = np.zeros((size, size))
    for subject in range(len(indptr) - 1):
        first = indptr[subject]
        last = min(indptr[subject + 1], first + MAX_GRAM_HISTORY)
        for one in range(first, last):
            row = items[one]
            if row < 0:
                continue
            for other in range(first, last):
                column = items[other]
                if column >= 0:
                    out[row, column] += weights[one] * weights[other]
    return out


@njit(cache=True, nogil=True)
def transitions(subject: np.ndarray, item: np.ndarray, size: int) -> np.ndarray:
    """Counts of item → next item of the same subject, float32 [M, M]; rows come sorted by subject, then time."""
    out = np.zeros((size, size), dtype=np.float32)
    for row in range(1, len(subject)):
        if subject[row] == subject[row - 1] and item[row] >= 0 and item[row - 1] >= 0:
            out[item[row - 1], item[row]] += 1.0
    return out


def ease(gram_MM: np.ndarray, lam: float) -> np.ndarray:
    """Ridge regression of every object on all others with a zero diagonal, float32 [M, M].

    Row h, column i is what having met h says for i.
    Source: Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019, equation 8.
    """
    regular = gram_MM.copy()
    regular[np.diag_indices_from(regular)] += lam
    weights = np.linalg.inv(regular)
    del regular  # a catalogue's worth of memory
    weights /= -np.diag(weights).copy()[None, :]
    weights[np.diag_indices_from(weights)] = 0.0
    return np.asarray(weights, dtype=np.float32)


def cosine(gram_MM: np.ndarray, shrink: float = 10.0) -> np.ndarray:
    """Cosine between objects with shrinkage towards 0 for rare pairs, zero diagonal, float32 [M, M]."""
    length = np.sqrt(np.diag(gram_MM))
    weights = np.empty(gram_MM.shape, dtype=np.float32)
    for row in range(len(weights)):  # row by row: no second matrix of float64 is held
        weights[row] = gram_MM[row] / (length[row] * length + shrink)
    weights[np.diag_indices_from(weights)] = 0.0
    return weights


def markov(counts_MM: np.ndarray, shrink: float = 5.0) -> np.ndarray:
    """Share of each next object, shrunk towards 0 for objects rarely left; float32 [M, M], made in place."""
    counts_MM /= counts_MM.sum(axis=1, keepdims=True) + np.float32(shrink)
    return counts_MM


@njit(cache=True, nogil=True)
def add_rows(
    out: np.ndarray, head: np.ndarray, matrix: np.ndarray, scale: np.ndarray, rows: np.ndarray, by: np.ndarray
) -> None:
    """out[head] += Σ by · scale[row] · matrix[row], over the rows given; `matrix` is float32 or int8 [M, M], `out` float32."""
    size = matrix.shape[1]
    total = np.zeros(size, dtype=np.float32)
    for number in range(len(rows)):
        row = rows[number]
        if row < 0:
            continue
        factor = np.float32(by[number] * scale[row])
        line = matrix[row]
        for column in range(size):
            total[column] += factor * np.float32(line[column])
    for column in range(size):
        out[head[column]] += total[column]


@njit(cache=True, nogil=True)
def add_rows_int4(
    out: np.ndarray, head: np.ndarray, values: np.ndarray, scale: np.ndarray, offset: np.ndarray, group: int,
    rows: np.ndarray, by: np.ndarray,
) -> None:  # fmt: skip
    """The same of numbers two a byte, (q − 8) · scale + offset in even groups: uint8 [M, ⌈N / 2⌉], float32 [M, g]."""
    size, half, num = len(head), values.shape[1], scale.shape[1]
    even, odd = np.zeros(half, dtype=np.float32), np.zeros(half, dtype=np.float32)  # apart, so that loops become vectors
    middle = np.zeros(num, dtype=np.float32)
    for number in range(len(rows)):
        row = rows[number]
        if row < 0:
            continue
        line = values[row]
        for at in range(num):
            factor = np.float32(by[number] * scale[row, at])
            middle[at] += np.float32(by[number] * offset[row, at]) - np.float32(8) * factor
            first, end = at * group // 2, min((at + 1) * group // 2, half)
            some, low, high = line[first:end], even[first:end], odd[first:end]
            for byte in range(len(some)):  # no index can be negative, or nothing is made a vector
                low[byte] += factor * np.float32(some[byte] & 15)
                high[byte] += factor * np.float32(some[byte] >> 4)
    for column in range(size):
        found = odd[column >> 1] if column & 1 else even[column >> 1]
        out[head[column]] += found + middle[column // group]


@njit(cache=True, nogil=True)
def add_rows_coded(
    out: np.ndarray, head: np.ndarray, codes: np.ndarray, book: np.ndarray, size: int, rows: np.ndarray, by: np.ndarray
) -> None:
    """The same of rows that are codes, uint8 [M, S], into a book, float32 [S, 256, d]."""
    total = np.zeros(book.shape[0] * book.shape[2], dtype=np.float32)
    by_part = total.reshape(book.shape[0], book.shape[2])
    for number in range(len(rows)):
        row = rows[number]
        if row < 0:
            continue
        factor, line = np.float32(by[number]), codes[row]
        for part in range(len(line)):
            word, some = book[part, line[part]], by_part[part]
            for at in range(len(word)):
                some[at] += factor * word[at]
    for column in range(size):
        out[head[column]] += total[column]


@njit(cache=True, nogil=True)
def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Codes of the k best scores above −inf, best first, ties to the lower code, int32."""
    codes = np.empty(k, dtype=np.int32)
    values = np.empty(k, dtype=np.float32)
    count = 0
    for code in range(len(scores)):
        value = scores[code]
        if value == -np.inf or (count == k and not value > values[count - 1]):
            continue
        place = count if count < k else k - 1
        while place > 0 and value > values[place - 1]:
            values[place] = values[place - 1]
            codes[place] = codes[place - 1]
            place -= 1
        values[place] = value
        codes[place] = code
        count = min(count + 1, k)
    return codes[:count]
