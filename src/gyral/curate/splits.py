"""Splits by time: train, then valid, then test, so that nothing is learned from what comes after.

The parts are cut from the end: a length of time, `"7d"`, takes what happened in that time before the end, a share, `0.1`, that
many rows. What happened at one time is never cut apart: it goes to the later part. Subjects and objects that a part has and no
part before it, are kept and counted: a served model meets them too, and a score without them is of another world.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gyral.curate.kept import Kept
from gyral.errors import ConfigError, InputError, did_you_mean
from gyral.event.clock import rfc3339

COLUMN = "split"
PARTS = ("train", "valid", "test")
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def check(wanted: Mapping[str, str | float]) -> None:
    """Refuse parts that nobody knows, and lengths that are none.

    Raises
    ------
    ConfigError : names the part.
    """
    for part, size in wanted.items():
        if part not in PARTS[1:]:
            hint = "`train` is what they leave" if part == "train" else did_you_mean(part, PARTS[1:])
            raise ConfigError(f"`{part}` is no part that can be cut", where="[curate] split", hint=hint)
        if isinstance(size, str):
            _micros(part, size)


def assign(kept: Kept, wanted: Mapping[str, str | float]) -> tuple[np.ndarray, dict[str, Any]]:
    """The part of each row, as a number of `PARTS`, and what each part holds; rows must be in order of time.

    Raises
    ------
    InputError : a part would be empty.
    """
    times = kept.times
    bounds = {"train": (0, len(times))}
    for part in reversed(PARTS[1:]):
        if part not in wanted:
            continue
        size, end = wanted[part], bounds["train"][1]
        if isinstance(size, str):
            begin = int(np.searchsorted(times[:end], times[end - 1] - _micros(part, size), side="right")) if end else 0
        else:
            row = end - max(round(size * len(times)), 1)
            begin = int(np.searchsorted(times[:end], times[max(row, 0)])) if end else 0
        bounds[part], bounds["train"] = (begin, end), (0, begin)
    parts = np.zeros(len(times), dtype=np.int8)
    for part, (begin, end) in bounds.items():
        if begin == end:
            raise InputError(
                f"the part `{part}` would be empty",
                where="curate.split",
                why=f"{len(times):,} rows over {(times[-1] - times[0]) / 86_400e6 if len(times) else 0:,.1f} days",
                hint="take shorter parts",
            )
        parts[begin:end] = PARTS.index(part)
    return parts, _facts(kept, bounds)


def told(facts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line for a person about each part."""
    for part, fact in facts.items():
        new = [
            f"{fact[f'cold_{name}']:,} of {fact[name]:,} {name}" for name in ("subjects", "objects") if f"cold_{name}" in fact
        ]
        is_new = f"; {' and '.join(new)} are in no part before" if new else ""
        yield f"{part}: {fact['rows']:,} rows from {fact['first_event']} to {fact['last_event']}{is_new}"


def column(parts: np.ndarray) -> pa.Array:
    """The names of the parts, one a row."""
    return pa.array(PARTS, pa.string()).take(pa.array(parts))


def _facts(kept: Kept, bounds: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    moments = kept.rows["event_time"]
    codes = {"subjects": kept.codes("subject"), "objects": kept.codes("object")}
    first = {name: _first_rows(each) for name, each in codes.items()}
    facts: dict[str, Any] = {}
    for part in (name for name in PARTS if name in bounds):
        begin, end = bounds[part]
        told: dict[str, Any] = {"rows": end - begin}
        told |= {name: rfc3339(moments[at].as_py()) for name, at in _ends(begin, end)}
        for name, each in codes.items():
            there = np.unique(each[begin:end])
            told[name] = len(there)
            if begin:
                told[f"cold_{name}"] = int((first[name][there] >= begin).sum())
        facts[part] = told
    return facts


def _ends(begin: int, end: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("first_event", begin), ("last_event", end - 1)


def _first_rows(codes: np.ndarray) -> np.ndarray:
    """The first row of each code."""
    first = np.full(int(codes.max()) + 1 if len(codes) else 0, len(codes), dtype=np.int64)
    np.minimum.at(first, codes, np.arange(len(codes)))
    return first


def _micros(part: str, size: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", size)
    micros = round(float(match.group(1)) * UNITS[match.group(2)] * 1e6) if match and match.group(2) in UNITS else 0
    if not 0 < micros < 1 << 62:
        hint = 'a length of time such as "7d", "12h", "30min", or a share of the rows, 0.1'
        raise ConfigError(f'`curate.split`: `{part} = "{size}"` is no length of time', where="[curate] split", hint=hint)
    return micros
