"""Makes the patch between two versions of a file: changed rows of tables only, and runs of bytes that moved in all else.

A weights file is looked at tensor by tensor. For each, what packs smallest is taken: its rows against the old ones (a row that
moved is found by its bytes; one that changed is subtracted from the row it most likely was), its bytes against all old bytes of
the tensor, or itself in byte planes. All other files are runs.

Chunks cut by content (FastCDC's way, 4 KiB) or of a fixed size are what a server can hand out that does not keep old versions;
this one does, and finds more: see `benchmarks/serve/bundles.py`.

Run as a program (`python -m gyral.serve.bundles.difference OLD NEW OUT`), so that no thread that serves pays.

**Source**: runs: Tridgell 1999, *Efficient Algorithms for Sorting and Synchronization*, chapter 3, with a polynomial window
hash made by doubling instead of a rolling one.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gyral.files import write_atomic
from gyral.serve.bundles.patch import ITEMS, digest, pack, planes

WINDOW = 32
MAX_RUNS_BYTES = 24 << 20
"""Beyond it bytes are not looked for everywhere: a window's hash takes 8 bytes for each byte."""
SMALL = 0.25
"""A table of which less than this share changed needs no other way."""
_PRIME = 0x9E3779B97F4A7C15
_ITEM = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


class Step(NamedTuple):
    """One step of a patch, and what it puts into the payload."""

    step: list[Any]
    payload: bytes


class Tensor(NamedTuple):
    """Where a tensor lies in its file, the bytes of its rows, and of its items."""

    at: int
    size: int
    width: int
    item: int
    kind: tuple[str, int]


def difference(old: bytes, new: bytes) -> bytes:
    """The patch that makes `new` of `old`."""
    tensors = layout(new)
    steps = _of_tensors(old, new, tensors) if tensors else [_smallest(_bytes_steps(old, new))]
    header = {"old": [len(old), digest(old)], "new": [len(new), digest(new)], "steps": [each.step for each in steps]}
    return pack(header, b"".join(each.payload for each in steps))


def layout(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file in their order; none where it is no such file or has gaps."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        told = json.loads(data[8 : 8 + size]) if size < len(data) else {}
        told.pop("__metadata__", None)
        found, end = {}, 8 + size
        for name, each in sorted(told.items(), key=lambda pair: (pair[1]["data_offsets"], pair[0])):
            first, last = (8 + size + place for place in each["data_offsets"])
            rows = each["shape"][0] if len(each["shape"]) > 1 else 0
            item = _ITEM.get(each["dtype"], 1)
            width = (last - first) // rows if rows else item
            if first != end or last < first or width == 0 or (last - first) % width or width % item:
                return {}
            found[name] = Tensor(first, last - first, width, item, (each["dtype"], len(each["shape"])))
            end = last
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        return {}
    return found if end == len(data) else {}


def _of_tensors(old: bytes, new: bytes, tensors: dict[str, Tensor]) -> list[Step]:
    before = layout(old)
    first = next(iter(tensors.values())).at
    head = next(iter(before.values())).at if before else 0
    steps = [_smallest(_bytes_steps(old[:head], new[:first]))]
    for name, tensor in tensors.items():
        there = before.get(name)
        values = new[tensor.at : tensor.at + tensor.size]
        was = there if there is not None and there.kind == tensor.kind and there.width == tensor.width else None
        options = [_rows_step(old, was, values, tensor)]
        if len(options[0].payload) > SMALL * tensor.size:
            options.append(_rows_step(old, None, values, tensor))
            if there is not None:
                options += _bytes_steps(old[there.at : there.at + there.size], values, there.at)
        steps.append(_smallest(options))
    return steps


def _smallest(options: list[Step]) -> Step:
    return min(options, key=lambda each: len(zlib.compress(each.payload, 1))) if len(options) > 1 else options[0]


def _bytes_steps(old: bytes, new: bytes, at: int = 0) -> list[Step]:
    """As runs of the old bytes, which lie at `at`; where they are too many, as they are."""
    plain = Step(["runs", 1], _of_numbers([(0, 0, len(new))]) + new)
    if not old or len(new) <= WINDOW or max(len(old), len(new)) > MAX_RUNS_BYTES:
        return [plain]
    runs = _found(np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8))
    told, fresh, done = [], [], 0
    for number, (start, place, size) in enumerate(runs):
        end = runs[number + 1][1] if number + 1 < len(runs) else len(new)
        if number == 0 and place:
            told.append((0, 0, place))
            fresh.append(new[:place])
        told.append((at + start, size, end - place - size))
        fresh.append(new[place + size : end])
        done = end
    if not done:
        return [plain]
    return [Step(["runs", len(told)], _of_numbers(told) + b"".join(fresh)), plain]


def _of_numbers(triples: list[tuple[int, int, int]]) -> bytes:
    return planes(np.array(triples, np.uint64).T.reshape(-1)).tobytes()


def _found(old: np.ndarray, new: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of the new bytes that are in the old ones: (where they were, where they are, how many), in order."""
    if len(old) < WINDOW:
        return []
    known = _hashes(old)[::WINDOW]
    order = np.argsort(known, kind="stable")
    hashes = _hashes(new)
    place = np.minimum(np.searchsorted(known[order], hashes), len(known) - 1)
    hits = np.flatnonzero(known[order][place] == hashes)
    runs: list[tuple[int, int, int]] = []
    at, next_hit = 0, 0
    while True:
        next_hit += int(np.searchsorted(hits[next_hit:], at))
        if next_hit >= len(hits):
            return runs
        mine = int(hits[next_hit])
        theirs = WINDOW * int(order[place[mine]])
        size = _common(old[theirs:], new[mine:])
        if size < WINDOW:  # another window of the same hash
            next_hit += 1
            continue
        back = min(theirs, mine - at, 4 * WINDOW)
        differs = np.flatnonzero(old[theirs - back : theirs] != new[mine - back : mine])
        back = back - 1 - int(differs[-1]) if len(differs) else back
        runs.append((theirs - back, mine - back, size + back))
        at = mine + size


def _hashes(data: np.ndarray) -> np.ndarray:
    """A hash of the window that begins at each place, uint64 [n − WINDOW + 1]."""
    found, size, power = data.astype(np.uint64) + np.uint64(1), 1, _PRIME
    while size < WINDOW:
        found = found[:-size] * np.uint64(power) + found[size:]
        size, power = 2 * size, power * power % (1 << 64)
    return found


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """How many bytes they begin with alike."""
    least, at, step = min(len(one), len(other)), 0, 64
    while at < least:
        end = min(at + step, least)
        differs = np.flatnonzero(one[at:end] != other[at:end])
        if len(differs):
            return at + int(differs[0])
        at, step = end, min(step * 4, 1 << 20)
    return least


def _rows_step(old: bytes, was: Tensor | None, values: bytes, tensor: Tensor) -> Step:
    """A tensor's rows against those of the old one; against nothing where there is none."""
    kind = ITEMS[tensor.item]
    new = np.frombuffer(values, kind).reshape(-1, tensor.width // tensor.item)
    start, before = 0, np.zeros((0, new.shape[1]), kind)
    if was is not None:
        start = was.at
        before = np.frombuffer(old, kind, was.size // tensor.item, was.at).reshape(-1, new.shape[1])
    source = _sources(before, new)
    base = np.zeros_like(new)
    base[source >= 0] = before[source[source >= 0]]
    mask = (base != new).any(axis=1)
    jumps = np.diff(source, prepend=-1) - 1
    jumps[:1] = source[:1] + 1
    added = new[mask] - base[mask]
    payload = [planes(jumps.astype("<i4").view("<u4")), np.packbits(mask), planes(added.reshape(-1))]
    step = ["rows", start, len(before), tensor.width, tensor.item, len(new), int(mask.sum())]
    return Step(step, b"".join(each.tobytes() for each in payload))


def _sources(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The row of the old table that each row is, or most likely was; −1: none. int64 [rows]"""
    if len(old) == len(new):
        source = np.arange(len(new))
        if len(new) and (old != new).any(axis=1).mean() < 0.5:
            return source  # in its place, as most rows of a table are
    source = np.full(len(new), -1)
    if not len(old) or not len(new):
        return source
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 1 << 63, old.shape[1], dtype=np.uint64) | np.uint64(1)
    keys_old, keys_new = ((each.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64) for each in (old, new))
    order = np.argsort(keys_old, kind="stable")
    place = np.minimum(np.searchsorted(keys_old[order], keys_new), len(old) - 1)
    candidate = order[place]
    same = (old[candidate] == new).all(axis=1)
    source[same] = candidate[same]
    rows, found = np.arange(len(new)), np.flatnonzero(same)
    if not len(found):
        return np.where(rows < len(old), rows, -1)
    ways = ((np.searchsorted(found, rows, "right") - 1, -1), (np.searchsorted(found, rows), len(found)))
    for places, nowhere in ways:
        beside = found[np.clip(places, 0, len(found) - 1)]  # the nearest row before, or after, that did not change
        guess = np.where(places == nowhere, -1, source[beside] + rows - beside)
        guess[(guess < 0) | (guess >= len(old))] = -1
        better = ~same & (_differs(old, new, guess) < _differs(old, new, source))
        source[better] = guess[better]
    return source


def _differs(old: np.ndarray, new: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Bytes in which each row differs from the one it would be made of."""
    base = np.where((source >= 0)[:, None], old[source], 0)
    found: np.ndarray = (base ^ new).view(np.uint8).astype(bool).sum(axis=1)
    return found


def main() -> None:
    """`OLD NEW OUT`."""
    old, new, out = (Path(each) for each in sys.argv[1:4])
    write_atomic(out, difference(old.read_bytes(), new.read_bytes()))


if __name__ == "__main__":
    main()
