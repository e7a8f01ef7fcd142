"""The numba kernels that make values of what `kernel` found: texts are copied into Arrow buffers, times are read.

Times are those of RFC 3339 with a zone, and epoch numbers as `clock` reads them, as far as that is certain: whole, not
negative, and so small that floating point, in which `clock` reckons, is exact.
"""

from __future__ import annotations

import numpy as np

from gyral.event.kernel import DASH, DOT, NINE, NULL, PLUS, QUOTE, TIME, UNSURE, ZERO, Array, kernel
from gyral.event.scan import Scanned

FIRST_MS, LIMIT_MS, MAX_EXACT_US = 10**11, 10**14, 1 << 53
COLON, LETTER_T, LETTER_Z = b":TZ"
_MONTH_DAYS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@kernel
def copy(words: Array, starts: Array, lengths: Array, out: Array, offsets: Array, valid: Array) -> None:
    """Copy the texts field by field, each eight bytes at a time: what that writes too much the next overwrites."""
    to = 0
    for field in range(len(offsets)):
        first = to
        for row in range(starts.shape[0]):
            start, length = starts[row, field], lengths[row, field]
            for step in range(0, length, 8):
                out[to + step] = words[start + step]
            to += max(length, 0)
            if length != NULL:
                valid[field, row >> 3] |= np.uint8(1 << (row & 7))
            offsets[field, row + 1] = to - first


@kernel
def times(into: Scanned) -> None:
    """Read the time of each row; one that is none here makes its row odd."""
    for row in range(len(into.micros)):
        start = into.starts[row, TIME]
        if not into.is_odd[row]:
            into.micros[row], end = _time(into.data, start)
            into.is_odd[row] = end != start + into.lengths[row, TIME]


@kernel
def _time(data: Array, at: int) -> tuple[int, int]:
    """A quoted time of RFC 3339 with a zone, or a whole number: microseconds since the epoch, and its end."""
    if data[at] == QUOTE:
        micros, at = _rfc3339(data, at + 1)
        return micros, at + 1 if at != UNSURE and data[at] == QUOTE else UNSURE
    number, end = _digits(data, at, 15)
    micros = number * (1_000_000 if number < FIRST_MS else 1_000)
    return micros, end if number < LIMIT_MS and micros < MAX_EXACT_US else UNSURE


@kernel
def _rfc3339(data: Array, at: int) -> tuple[int, int]:
    """Microseconds since the epoch, and the end; years 2 to 9998, at most six digits of a second's fraction.

    Source of the days of a date: Hinnant, chrono-compatible low-level date algorithms, `days_from_civil`.
    """
    year, end = _digits(data, at, 4)
    month, month_end = _digits(data, at + 5, 2)
    day, day_end = _digits(data, at + 8, 2)
    is_sure = end == at + 4 and data[at + 4] == DASH and month_end == at + 7 and data[at + 7] == DASH and day_end == at + 10
    if not is_sure or data[at + 10] != LETTER_T or not (1 < year < 9_999 and 1 <= month <= 12 and day >= 1):
        return 0, UNSURE
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if day > _MONTH_DAYS[month] + (1 if is_leap and month == 2 else 0):
        return 0, UNSURE
    minutes, end = _clock(data, at + 11)
    second, second_end = _digits(data, end + 1, 2)
    if end == UNSURE or data[end] != COLON or second_end != end + 3 or second > 59:
        return 0, UNSURE
    end = second_end
    fraction = 0
    if data[end] == DOT:
        fraction, after = _digits(data, end + 1, 6)
        if after == end + 1:
            return 0, UNSURE
        for _ in range(7 - (after - end)):
            fraction *= 10
        end = after
    sign = data[end]
    if sign in (PLUS, DASH):
        offset, end = _clock(data, end + 1)
        minutes += -offset if sign == PLUS else offset
    elif sign == LETTER_Z:
        end += 1
    else:
        return 0, UNSURE
    year -= month <= 2
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    century_year = year % 400
    days = year // 400 * 146_097 + century_year * 365 + century_year // 4 - century_year // 100 + day_of_year - 719_468
    return ((days * 1_440 + minutes) * 60 + second) * 1_000_000 + fraction, end


@kernel
def _clock(data: Array, at: int) -> tuple[int, int]:
    """Minutes of `HH:MM`, and its end."""
    hour, hour_end = _digits(data, at, 2)
    minute, end = _digits(data, at + 3, 2)
    if hour_end != at + 2 or data[at + 2] != COLON or end != at + 5 or hour > 23 or minute > 59:
        return 0, UNSURE
    return hour * 60 + minute, end


@kernel
def _digits(data: Array, at: int, most: int) -> tuple[int, int]:
    """The number that up to `most` digits are, and their end."""
    number, end = 0, at + most
    while at < end and ZERO <= data[at] <= NINE:
        number = number * 10 + (data[at] - ZERO)
        at += 1
    return number, at
