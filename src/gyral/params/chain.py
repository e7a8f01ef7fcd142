"""A base and the cuts after it as one thing: which bucket is at which version, and its rows, bucket by bucket.

Names order everything: `cut-<n>` is the n-th file of a folder, `base-<n>` holds what cuts 1 to n amount to, so there is no
list of files to keep beside the files. The newest base whose checksum holds is the start. Memory while folding: the entries
(56 bytes a segment) and a few chunks of buckets, however large the tables are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from gyral.params import segment_kernel as kernel
from gyral.params.records import Records
from gyral.params.segment import (
    CUT,
    ENTRY,
    UNKNOWN,
    Bucket,
    Damaged,
    File,
    Listing,
    decode,
    sizes_of,
    views,
    widths_of,
)  # fmt: skip
from gyral.params.spec import BUCKETS

CHUNK_BYTES, AHEAD = 4 << 20, 2
"""A chunk is read and folded by a thread while the one before is used; kernels and reads let go of the interpreter."""
OPEN_FILES = 200
"""At once; a log that nobody folded may have thousands, and those above are opened when they are read."""
NAME = re.compile(r"(cut|base)-(\d{16})\.delta")


def name_of(kind: str, number: int) -> str:
    """Of a file: `kind` is `cut` or `base`."""
    return f"{kind}-{number:016d}.delta"


class Source(Protocol):
    """Where files of a log are: a folder, or something that answers for one over a network."""

    def names(self) -> list[str]:
        """Every file there is now."""
        ...

    def open(self, name: str) -> File:
        """Raises FileNotFoundError when it is gone."""
        ...


class Folder:
    """Files of a log in a folder. What is open stays readable after it was removed; what was closed is opened anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return os.listdir(self.path) if self.path.is_dir() else []

    def open(self, name: str) -> File:
        path, held = self.path / name, [os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC)]
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(held[0], 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the next chunk comes while this one is folded

        def read_into(buffer: memoryview, at: int) -> None:
            fd = held[0] if held else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while len(buffer):
                    count = os.preadv(fd, [buffer[: 1 << 30]], at)
                    if not count:
                        raise Damaged(str(path), "it is cut short while it was read")
                    buffer, at = buffer[count:], at + count
            finally:
                if not held:
                    os.close(fd)

        def close() -> None:
            if held:
                os.close(held.pop())

        return File(str(path), os.fstat(held[0]).st_size, read_into, close)


def numbers(names: list[str], kind: str) -> list[int]:
    """Numbers of all cuts or bases, ascending."""
    found = (NAME.fullmatch(name) for name in names)
    return sorted(int(match[2]) for match in found if match and match[1] == kind)


class Chain:
    """The newest base of a source and the cuts after it. Close it, or use it in a `with`.

    Parameters
    ----------
    strict : raise `Damaged` when a cut is missing or unreadable (recovery must not guess); else leave it out, so that buckets
        it did not touch can be read (`newest` says which those are).
    """

    def __init__(self, source: Source, *, strict: bool = True, last: int | None = None) -> None:
        self.parts: list[Listing] = []
        self._files: list[File] = []
        self._ahead, self._arena = ThreadPoolExecutor(1, "fold"), np.empty(0, np.uint8)
        try:
            self._open_all(source, source.names(), strict, last)
        except BaseException:
            self.close()
            raise
        self._order()

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ahead.shutdown(cancel_futures=True)
        for file in self._files:
            file.close()

    def _open_all(self, source: Source, names: list[str], strict: bool, last: int | None) -> None:
        bases, cuts = ([n for n in numbers(names, kind) if last is None or n <= last] for kind in ("base", "cut"))
        damage: dict[int, Damaged] = {}
        for number in reversed(bases):
            try:
                self._open(source, name_of("base", number))
                break
            except Damaged as error:
                damage[number] = error
            except FileNotFoundError:
                continue  # a newer one took its place
        for number in cuts:
            if number <= self.number:
                continue
            name = name_of("cut", number)
            try:
                if strict and number != self.number + 1:
                    raise Damaged(name_of("cut", self.number + 1), "the file is missing, and later ones are there")
                epoch = self.parts[-1].epoch if self.parts else 0
                self._open(source, name)
                if self.parts[-1].epoch < epoch:
                    self._files.pop().close()
                    raise Damaged(name, f"its owner, epoch {self.parts.pop().epoch}, had been replaced by epoch {epoch}")
            except (Damaged, FileNotFoundError):
                if strict:
                    raise
        if strict and damage and self.number < max(damage):
            raise damage[max(damage)]

    def _open(self, source: Source, name: str) -> None:
        file = source.open(name)
        try:
            part = decode(file)
            if name_of("base" if part.base else "cut", part.number) != name:
                raise Damaged(name, f"it is number {part.number} under another name")
        except BaseException:
            file.close()
            raise
        if len(self._files) >= OPEN_FILES:
            file.close()
        self._files.append(file)
        self.parts.append(part)

    def _order(self) -> None:
        """All entries by table, bucket and age; tables by name, since a later part may know more of them."""
        self.specs = {spec.name: spec for part in self.parts for spec in part.specs}
        place = {name: at for at, name in enumerate(self.specs)}
        entries = [part.entries.copy() for part in self.parts]
        for part, each in zip(self.parts, entries, strict=True):
            each["table"] = np.array([place[spec.name] for spec in part.specs], np.uint16)[each["table"]]
        self._from = np.repeat(np.arange(len(entries)), [len(each) for each in entries])
        self.entries = np.concatenate([np.zeros(0, ENTRY), *entries])
        group = self.entries["table"].astype(np.int64) * BUCKETS + self.entries["bucket"]
        order = np.lexsort((self._from, group))
        self.entries, self._from, group = self.entries[order], self._from[order], group[order]
        self._groups = (
            np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])) if len(group) else np.zeros(0, np.int64)
        )
        self._ends = np.append(self._groups[1:], len(group)).astype(np.int64)
        self.newest = {name: np.zeros(BUCKETS, np.uint64) for name in self.specs}
        self.owners = {name: np.zeros(BUCKETS, np.uint64) for name in self.specs}
        for part in self.parts:
            for spec, versions in zip(part.specs, part.versions, strict=True):
                self.newest[spec.name][part.first : part.last] = versions
        for name, at in place.items():
            of = self.entries[self.entries["table"] == at]
            self.owners[name][of["bucket"]] = of["owner"]  # the last one of a bucket stays

    @property
    def number(self) -> int:
        """Of the last cut."""
        return self.parts[-1].number if self.parts else 0

    @property
    def epoch(self) -> int:
        """Of the last owner."""
        return max((part.epoch for part in self.parts), default=0)

    def workers(self) -> np.ndarray:
        """All workers of which a push was applied, int64 [W], ascending."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(part.workers for part in self.parts)]))

    def applied(self, table: str) -> np.ndarray:
        """Last pushes of `workers` in the buckets of a table, uint64 [BUCKETS, W]; 0: none."""
        workers = self.workers()
        seqs = np.zeros((BUCKETS, len(workers)), np.uint64)
        for part in self.parts:
            place = next((at for at, spec in enumerate(part.specs) if spec.name == table), -1)
            of = part.applied_at // BUCKETS == place
            seqs[part.applied_at[of, None] % BUCKETS, np.searchsorted(workers, part.workers)[None]] = part.applied[of]
        return seqs

    def notes(self) -> bytes:
        """Of the shard, as it said last."""
        return self.parts[-1].notes if self.parts else b""

    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files)

    def buckets(self, tables: Sequence[str] | None = None) -> Iterator[Bucket]:
        """Every bucket that is in the log, whole; a table after the other, ascending.

        Raises
        ------
        Damaged : a bucket's segments are not what was written, or one is missing.
        """
        chunks = [
            chunk
            for chunk in self._chunks(CHUNK_BYTES)
            if tables is None or self._name(self.entries[self._groups[chunk]]) in tables
        ]
        coming = [self._ahead.submit(self._list, chunk) for chunk in chunks[:AHEAD]]
        for number in range(len(chunks)):
            ready = coming.pop(0).result()
            coming += [self._ahead.submit(self._list, chunk) for chunk in chunks[number + AHEAD : number + AHEAD + 1]]
            yield from ready

    def _list(self, groups: np.ndarray) -> list[Bucket]:
        return list(self._folded(groups))

    def bucket(self, table: str, bucket: int) -> Bucket | None:
        """One bucket; None: it is not in the log."""
        if table not in self.specs:
            return None
        first = self.entries[self._groups]
        at = np.flatnonzero((first["bucket"] == bucket) & (first["table"] == list(self.specs).index(table)))
        return self._ahead.submit(self._list, at).result()[0] if len(at) else None

    def _chunks(self, chunk_bytes: int) -> Iterator[np.ndarray]:
        """Indexes of groups, so many that their segments take about so many bytes."""
        if not len(self._groups):
            return
        sizes = np.add.reduceat(sizes_of(self.entries, widths_of(list(self.specs.values()))), self._groups)
        table = self.entries["table"][self._groups].astype(np.int64)
        kind = table * (1 << 40) + np.cumsum(sizes).astype(np.int64) // chunk_bytes
        yield from np.split(np.arange(len(kind)), np.flatnonzero(np.diff(kind)) + 1)

    def _segments(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indexes of the entries that count, and where each group's begin: from the last whole one on, without gaps."""
        kept, starts = [], [0]
        kinds = self.entries["kind"]
        for first, end in zip(self._groups[groups].tolist(), self._ends[groups].tolist(), strict=True):
            if end - first > 1:
                whole = np.flatnonzero(kinds[first:end] != CUT)
                first += int(whole[-1]) if len(whole) else 0
            kept.append(np.arange(first, end))
            starts.append(starts[-1] + end - first)
        chosen = np.concatenate(kept)
        entries, begins = self.entries[chosen], np.array(starts)
        gap = np.ones(len(entries), bool)
        gap[1:] = (entries["version"][1:] != entries["version"][:-1] + np.uint64(1)) | (
            entries["owner"][1:] < entries["owner"][:-1]
        )
        gap[begins[:-1]] = (entries["kind"][begins[:-1]] == CUT) & (entries["version"][begins[:-1]] != 1)
        last = entries[begins[1:] - 1]
        newest = self.newest[self._name(last)][last["bucket"]]
        gap[begins[1:] - 1] |= newest > last["version"]
        if gap.any():
            one = entries[int(np.flatnonzero(gap)[0])]
            why = f"what comes before or after version {int(one['version'])} is missing"
            raise Damaged(self.parts[-1].name, why, self._name(entries), int(one["bucket"]))
        return chosen, begins

    def _name(self, entries: np.ndarray) -> str:
        return list(self.specs)[int(entries["table"][0])]

    def _folded(self, groups: np.ndarray) -> Iterator[Bucket]:
        chosen, starts = self._segments(groups)
        entries, files = self.entries[chosen], self._from[chosen]
        spec = self.specs[self._name(entries)]
        widths = widths_of(list(self.specs.values()))
        sizes = sizes_of(entries, widths)
        offsets, arena = self._read(entries, files, sizes)
        words, halves, _ = views(arena)
        bad = kernel.check(words, offsets, sizes, np.ascontiguousarray(entries["digest"]))
        if bad >= 0:
            part = self.parts[int(files[bad])]
            raise Damaged(part.name, "its checksum is another", spec.name, int(entries["bucket"][bad]))
        rows = int(entries["upserts"].sum())
        items = np.add.reduceat((entries["upserts"] + entries["gone"]).astype(np.int64), starts[:-1])
        scratch = 1 << int(2 * int(items.max(initial=1)) - 1).bit_length() if len(entries) > len(groups) else 1
        keys, stamps = np.empty(rows, np.int64), np.empty(rows, np.uint32)
        bodies = np.empty((rows, spec.body_bytes // 4), np.uint32)
        ends = np.empty(len(groups) + 1, np.int64)
        kernel.fold(
            words, halves, starts.astype(np.uint64), np.ascontiguousarray(entries["kind"]), offsets,
            np.ascontiguousarray(entries["upserts"]), np.ascontiguousarray(entries["gone"]),
            np.empty(scratch, np.uint64), np.zeros(scratch, np.uint32), keys, stamps, bodies, ends,
        )  # fmt: skip
        octets = bodies.view(np.uint8).reshape(rows, spec.body_bytes)
        last = starts[1:] - 1
        used = (entries["upserts"].astype(np.int64) * (12 + spec.body_bytes) + entries["gone"].astype(np.int64) * 8)[
            last
        ].tolist()
        for at, entry in enumerate(entries[last]):
            start, end = int(ends[at]), int(ends[at + 1])
            if entry["rows"] not in (UNKNOWN, end - start):
                why = f"it holds {end - start:,} rows and not {int(entry['rows']):,}"
                raise Damaged(self.parts[int(files[last[at]])].name, why, spec.name, int(entry["bucket"]))
            begin = int(offsets[last[at]]) + int(used[at])
            counters = arena[begin : begin + int(entry["counters"])].copy()
            records = Records(keys[start:end], stamps[start:end], octets[start:end])
            yield Bucket(spec.name, int(entry["bucket"]), int(entry["version"]), int(entry["owner"]), records, counters)

    def _read(self, entries: np.ndarray, files: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segments into one buffer, a file at a time: those of neighbouring buckets are neighbours in a file."""
        offsets, spans, total = np.empty(len(entries), np.uint64), [], 0
        for number in np.unique(files).tolist():
            of = files == number
            start, end = int(entries["offset"][of].min()), int((entries["offset"] + sizes)[of].max())
            offsets[of] = entries["offset"][of] - np.uint64(start) + np.uint64(total)
            spans.append((number, start, total, end - start))
            total += end - start
        if len(self._arena) < total:
            self._arena = np.empty(total, np.uint8)  # used again by every chunk: fresh pages cost more than the copy
        arena = self._arena[:total]
        view = arena.data
        for number, start, at, size in spans:
            if size:
                self._files[number].read_into(view[at : at + size], start)
        return offsets, arena
