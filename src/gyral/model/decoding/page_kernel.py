"""Keys and values into pages, and attention of single positions over pages.

A batch of sequences of different lengths costs what its lengths add up to: nothing is padded and nothing gathered. Keys lie
turned over, [E, 16], so that one load brings a coordinate of all 16 positions of a page; values lie [16, E]. Each row is
computed alone, in one order of additions: its result does not depend on what else is in the batch, to the last bit. A page is
read for all heads before the next one, because what it holds of them lies together: eight sequences of 80 positions that had
their pages in any order took 6.1 ms of twelve layers head by head, and take 3.2; int8 pages at 500 positions 13.5 and 6.6.

Many queries of one sequence (a chunk of a prompt) are left to PyTorch's attention over gathered pages, which is made of matrix
products; see `forward` for where one takes over from the other.

Pages are float32, or int8 with a scale for each position and head. Rows of `joined` hold queries, keys and values side by
side, (H + 2K) E wide.

Letters: P pages, K heads of keys and values, H heads of queries, E width of a head, n rows, S positions seen.

Source: Kwon et al. 2023 (PagedAttention); exp is by Cephes' polynomial (`expf`), because compilers do not make vectors of
calls to `exp`: its error is 1e-7 of the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from gyral.model.kernel import kernel, part

PAGE = 16
"""Positions of a page."""

Array = np.ndarray
_f: Any = np.float32
_LOG2E, _LN2_HIGH, _LN2_LOW, _FLOOR = _f(1.44269504088896341), _f(0.693359375), _f(-2.12194440e-4), _f(-87)
_C0, _C1, _C2 = _f(1.9875691500e-4), _f(1.3981999507e-3), _f(8.3334519073e-3)
_C3, _C4, _C5 = _f(4.1665795894e-2), _f(1.6666665459e-1), _f(5.0000001201e-1)
_HALF, _ONE, _BIAS, _MANTISSA = _f(0.5), _f(1), np.int32(127), np.int32(23)


def _scale_of(pages: Any, largest: Any) -> Any:
    """What values of that size are divided by before they are kept."""


def _kept(pages: Any, value: Any) -> Any:
    """A value as the pages keep it."""


@overload(_scale_of, strict=False, inline="always")
def _scale_as(pages: Any, largest: Any) -> Any:
    if isinstance(pages.dtype, types.Integer):
        return lambda pages, largest: largest / np.float32(127)
    return lambda pages, largest: np.float32(1)


@overload(_kept, strict=False, inline="always")
def _kept_as(pages: Any, value: Any) -> Any:
    if isinstance(pages.dtype, types.Integer):
        return lambda pages, value: np.int8(np.rint(value))
    return lambda pages, value: value


@part
def _exp(x: Any) -> Any:
    """Of x ≤ 0."""
    x = max(x, _FLOOR)
    power = np.int32(x * _LOG2E - _HALF)  # rounds to the nearest, as what is rounded towards zero is negative
    rest = x - _f(power) * _LN2_HIGH - _f(power) * _LN2_LOW
    poly = ((((_C0 * rest + _C1) * rest + _C2) * rest + _C3) * rest + _C4) * rest + _C5
    return (poly * rest * rest + rest + _ONE) * np.int32((power + _BIAS) << _MANTISSA).view(np.float32)


@kernel
def write(joined: Array, slots: Array, heads: int, keys: Array, values: Array, scales: Array) -> None:
    """Put keys and values of rows into pages.

    Parameters
    ----------
    slots : page · 16 + place of each row, int64 [n].
    keys, values, scales : [P, K, E, 16], [P, K, 16, E] and [2, P, K, 16].
    """
    kinds, width = keys.shape[1], keys.shape[2]
    for i in range(len(slots)):
        page, place = slots[i] // PAGE, slots[i] % PAGE
        for k in range(kinds):
            key, value = (heads + k) * width, (heads + kinds + k) * width
            largest_key, largest_value = _f(1e-30), _f(1e-30)
            for e in range(width):
                largest_key = max(largest_key, abs(joined[i, key + e]))
                largest_value = max(largest_value, abs(joined[i, value + e]))
            of_key, of_value = _scale_of(keys, largest_key), _scale_of(values, largest_value)
            scales[0, page, k, place], scales[1, page, k, place] = of_key, of_value
            for e in range(width):
                keys[page, k, e, place] = _kept(keys, joined[i, key + e] / of_key)
                values[page, k, place, e] = _kept(values, joined[i, value + e] / of_value)


@part
def _score(query: Array, at: int, keys_E16: Array, scale: Any, out: Array) -> None:
    """Products of one query with the 16 keys of a page, into `out` [16]."""
    for t in range(PAGE):
        out[t] = _f(0)
    for e in range(0, keys_E16.shape[0], 4):
        q0, q1, q2, q3 = query[at + e] * scale, query[at + e + 1] * scale, query[at + e + 2] * scale, query[at + e + 3] * scale
        for t in range(PAGE):
            first = q0 * _f(keys_E16[e, t]) + q1 * _f(keys_E16[e + 1, t])
            out[t] += first + (q2 * _f(keys_E16[e + 2, t]) + q3 * _f(keys_E16[e + 3, t]))


@part
def _add(shares: Array, scales: Array, values_16E: Array, num: int, out: Array) -> None:
    """The first values of a page by their shares, onto `out` [E]; those behind them may be no numbers."""
    fours = num // 4 * 4
    for t in range(0, fours, 4):
        s0, s1, s2, s3 = (
            shares[t] * scales[t],
            shares[t + 1] * scales[t + 1],
            shares[t + 2] * scales[t + 2],
            shares[t + 3] * scales[t + 3],
        )
        for e in range(values_16E.shape[1]):
            first = s0 * _f(values_16E[t, e]) + s1 * _f(values_16E[t + 1, e])
            out[e] += first + (s2 * _f(values_16E[t + 2, e]) + s3 * _f(values_16E[t + 3, e]))
    for t in range(fours, num):
        share = shares[t] * scales[t]
        for e in range(values_16E.shape[1]):
            out[e] += share * _f(values_16E[t, e])


@kernel
def attend(
    joined: Array,
    rows: Array,
    of_row: Array,
    tables: Array,
    seen: Array,
    keys: Array,
    values: Array,
    scales: Array,
    shares: Array,
    out: Array,
) -> None:
    """What the queries of some rows see of their sequences' pages.

    Parameters
    ----------
    rows : which rows, int64 [r]; `of_row` : each one's line in `tables`, int64 [r].
    tables : pages of each sequence in order, int32 [lines, ·].
    seen : positions that each of the rows sees, int64 [r].
    shares : scratch, float32 [H, the largest number of pages times 16].
    out : [n, H E]; the rows are written.
    """
    kinds, width = keys.shape[1], keys.shape[2]
    heads = out.shape[1] // width
    group, scale = heads // kinds, _f(1.0 / np.sqrt(width))
    for r in range(len(rows)):
        i, line, length = rows[r], of_row[r], seen[r]
        pages = (length + PAGE - 1) // PAGE
        for p in range(pages):
            page = tables[line, p]
            for h in range(heads):
                k = h // group
                _score(joined[i], h * width, keys[page, k], scale, shares[h, p * PAGE : (p + 1) * PAGE])
                for t in range(PAGE):
                    shares[h, p * PAGE + t] *= scales[0, page, k, t]
        for h in range(heads):
            most = shares[h, 0]
            for s in range(1, length):
                most = max(most, shares[h, s])
            total = _f(0)
            for s in range(length):
                share = _exp(shares[h, s] - most)
                shares[h, s] = share
                total += share
            one = _ONE / total
            for s in range(length):
                shares[h, s] *= one
        for e in range(heads * width):
            out[i, e] = _f(0)
        for p in range(pages):
            page, last = tables[line, p], min(PAGE, length - p * PAGE)
            for h in range(heads):
                k = h // group
                _add(shares[h, p * PAGE :], scales[1, page, k], values[page, k], last, out[i, h * width : (h + 1) * width])


@kernel
def gather(table: Array, length: int, keys: Array, values: Array, scales: Array, key_KSE: Array, value_KSE: Array) -> None:
    """The first positions of one sequence side by side, float32 [K, S, E]."""
    kinds, width = keys.shape[1], keys.shape[2]
    for p in range((length + PAGE - 1) // PAGE):
        page, last = table[p], min(PAGE, length - p * PAGE)
        for k in range(kinds):
            for t in range(last):
                of_key, of_value = scales[0, page, k, t], scales[1, page, k, t]
                for e in range(width):
                    key_KSE[k, p * PAGE + t, e] = _f(keys[page, k, e, t]) * of_key
                    value_KSE[k, p * PAGE + t, e] = _f(values[page, k, t, e]) * of_value
