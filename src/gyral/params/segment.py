"""A file of the delta log: some buckets' changes, or whole buckets, as bytes in which any damage is found and named.

Little-endian, every part a multiple of 8 bytes:

    head      16  magic, format
    segments      one a bucket: keys, gone keys, stamps, bodies, counters (`segment_kernel`)
    tail          specs (JSON), notes | workers | applied: bucket, seq a worker | versions of the range | one entry a segment
    foot     104  kind, number, epoch of the process, range, times, sizes of the tail, checksum of head, tail and foot

Entries hold the checksums of the segments, so each byte of a file is under exactly one checksum, and a reader that wants one
bucket reads foot, tail and that bucket. A torn file has no foot. Versions of *all* buckets of the range stand in every file
(8 bytes a bucket, as many as one worker's row of `applied` takes): who missed a file knows from the next one which buckets he
lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gyral.errors import InputError
from gyral.params import segment_kernel as kernel
from gyral.params.records import Changes, Records
from gyral.params.segment_kernel import CUT, WHOLE
from gyral.params.spec import TableSpec

__all__ = ["CUT", "WHOLE", "Bucket", "Damaged", "Encoder", "File", "Listing", "changes_of", "decode"]

FORMAT = 1
HEAD = np.dtype([("magic", "S8"), ("format", "<u8")])
ENTRY = np.dtype(
    [
        ("offset", "<u8"), ("digest", "<u8"), ("version", "<u8"), ("owner", "<u8"), ("upserts", "<u4"), ("gone", "<u4"),
        ("rows", "<u4"), ("counters", "<u4"), ("table", "<u2"), ("bucket", "<u2"), ("kind", "<u2"), ("spare", "<u2"),
    ]
)  # fmt: skip
"""Of a segment; `rows`: of the bucket after it, `UNKNOWN` where nobody counted."""
FOOT = np.dtype(
    [
        ("base", "<u4"), ("tables", "<u4"), ("number", "<u8"), ("epoch", "<u8"), ("owner", "<u8"), ("first", "<u4"),
        ("last", "<u4"), ("event_s", "<f8"), ("acknowledged_s", "<f8"), ("tail", "<u8"), ("specs_bytes", "<u4"),
        ("notes_bytes", "<u4"),
        ("workers", "<u4"), ("applied_rows", "<u4"), ("entries", "<u4"), ("spare", "<u4"), ("root", "<u8"), ("magic", "S8"),
    ]
)  # fmt: skip
MAGIC, END = b"gyDELTA1", b"gyDELTAe"
UNKNOWN = 0xFFFFFFFF
LIMIT_TAIL = 1 << 30
"""Bytes of a tail at most: 4,096 buckets of a hundred tables and ten thousand workers fit."""


class Bucket(NamedTuple):
    """One bucket of a table, whole; `owner`: epoch of the shard that wrote it last."""

    table: str
    bucket: int
    version: int
    owner: int
    records: Records
    counters: np.ndarray


class Listing(NamedTuple):
    """What a file says beside its rows.

    Attributes
    ----------
    epoch, owner : of the process that wrote it, and of the shard as the owner of its buckets (entries: as it was then).
    workers, applied_at, applied : int64 [W]; uint64 [N], table · BUCKETS + bucket; uint64 [N, W], last pushes of workers there.
    versions : uint64 [tables, last − first], of all buckets of the range.
    entries : of `ENTRY`, one a segment.
    tail : where segments end.
    """

    name: str
    base: bool
    number: int
    epoch: int
    owner: int
    first: int
    last: int
    event_s: float
    acknowledged_s: float
    notes: bytes
    specs: tuple[TableSpec, ...]
    workers: np.ndarray
    applied_at: np.ndarray
    applied: np.ndarray
    versions: np.ndarray
    entries: np.ndarray
    tail: int


class File(NamedTuple):
    """An open file of bytes that only its source knows how to reach: `read_into(buffer, at)` fills a buffer."""

    name: str
    size: int
    read_into: Callable[[memoryview, int], None]
    close: Callable[[], None]

    def read(self, at: int, size: int) -> bytearray:
        held = bytearray(size)
        if size:
            self.read_into(memoryview(held), at)
        return held


class Damaged(InputError):
    """A file of the log is not what was written; `table` and `bucket` when the damage is in one bucket."""

    def __init__(self, name: str, why: str, table: str = "", bucket: int = -1) -> None:
        at = f", bucket {bucket} of table `{table}`" if table else ""
        hint = "copy the file back from another disk, or move the folder away and start from a checkpoint: "
        hint += "the event log brings the rest (followers need nothing: they repair what they lack)"
        super().__init__("the delta log is damaged", where=f"{name}{at}", why=why, hint=hint)
        self.name, self.table, self.bucket = name, table, bucket


def sizes_of(entries: np.ndarray, widths_T: np.ndarray) -> np.ndarray:
    """Bytes of segments, uint64."""
    per_row = 12 + widths_T[entries["table"]]
    size = entries["upserts"].astype(np.uint64) * per_row + entries["gone"].astype(np.uint64) * np.uint64(8)
    size += entries["counters"]
    return np.asarray((size + np.uint64(7)) & ~np.uint64(7))


def widths_of(specs: Sequence[TableSpec]) -> np.ndarray:
    """Bytes of a body in each table, uint64."""
    return np.array([spec.body_bytes for spec in specs], dtype=np.uint64)


def views(buffer: bytearray | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A buffer as uint64, uint32 and uint8."""
    octets = np.frombuffer(buffer, dtype=np.uint8)
    octets = octets[: len(octets) & ~7]
    return octets.view(np.uint64), octets.view(np.uint32), octets


class Encoder:
    """Writes one file, segment after segment, through `write`; memory: one batch of segments and 56 bytes an entry."""

    def __init__(self, specs: Sequence[TableSpec], write: Callable[[Any], Any]) -> None:
        self._specs, self._write, self._entries, self._at = tuple(specs), write, [np.zeros(0, ENTRY)], HEAD.itemsize
        self._head = np.array([(MAGIC, FORMAT)], HEAD).tobytes()
        write(self._head)

    def add(self, table: int, kind: Any, changes: Changes, versions_N: Any, owners_N: Any, rows_N: Any = UNKNOWN) -> None:
        """Add one segment a bucket of `changes`."""
        entries = np.zeros(len(changes.buckets), ENTRY)
        entries["table"], entries["bucket"], entries["kind"] = table, changes.buckets, kind
        entries["version"], entries["owner"], entries["rows"] = versions_N, owners_N, rows_N
        entries["upserts"], entries["gone"] = np.diff(changes.upsert_starts), np.diff(changes.gone_starts)
        entries["counters"] = changes.counters.shape[1]
        sizes = sizes_of(entries, widths_of(self._specs))
        offsets = np.zeros(len(sizes), np.uint64)
        np.cumsum(sizes[:-1], out=offsets[1:])
        words, halves, octets = views(bytearray(int(sizes.sum())))
        keys, stamps, bodies = changes.upserts
        digests = np.zeros(len(sizes), np.uint64)
        kernel.pack(
            words, halves, octets, offsets, sizes, keys, stamps, np.ascontiguousarray(bodies).view(np.uint32),
            changes.upsert_starts, changes.gone_keys, changes.gone_starts, np.ascontiguousarray(changes.counters), digests,
        )  # fmt: skip
        entries["offset"], entries["digest"] = offsets + np.uint64(self._at), digests
        self._entries.append(entries)
        self._at += len(octets)
        self._write(octets.data)

    def finish(
        self, *, base: bool, number: int, epoch: int, first: int, last: int, versions: np.ndarray, workers: np.ndarray,
        applied_at: np.ndarray, applied: np.ndarray, owner: int = 0, event_s: float = 0.0, acknowledged_s: float = 0.0,
        notes: bytes = b"",
    ) -> None:  # fmt: skip
        """Write tail and foot; the parameters are those of `Listing`."""
        specs = msgspec.json.encode(self._specs)
        specs += b" " * (-len(specs) % 8)
        padding = b" " * (-len(notes) % 8)
        entries = np.concatenate(self._entries)
        arrays = (workers.astype("<i8"), applied_at.astype("<u8"), applied.astype("<u8"), versions.astype("<u8"))
        tail = specs + notes + padding + b"".join(array.tobytes() for array in arrays) + entries.tobytes()
        foot = np.zeros(1, FOOT)
        foot[0] = (
            base, len(self._specs), number, epoch, owner, first, last, event_s, acknowledged_s, self._at,
            len(specs), len(notes), len(workers), len(applied_at), len(entries), 0, 0, END,
        )  # fmt: skip
        foot["root"] = _root(self._head + tail, foot)
        self._write(tail + foot.tobytes())


def decode(file: File) -> Listing:
    """Read what a file says beside its rows, and see that it is whole; segments are not read.

    Raises
    ------
    Damaged : it is cut short, or a bit of head, tail or foot is not as it was written.
    """
    if file.size < HEAD.itemsize + FOOT.itemsize or file.size % 8:
        raise Damaged(file.name, f"it is cut short: {file.size:,} bytes")
    foot = np.frombuffer(file.read(file.size - FOOT.itemsize, FOOT.itemsize), FOOT)
    one = foot[0]
    at, size = int(one["tail"]), file.size - FOOT.itemsize - int(one["tail"])
    if one["magic"] != END or not HEAD.itemsize <= at <= file.size - FOOT.itemsize or size > LIMIT_TAIL or at % 8:
        raise Damaged(file.name, "it is cut short, or its end was changed")
    head, tail = file.read(0, HEAD.itemsize), file.read(at, size)
    if _root(bytes(head) + bytes(tail), foot) != one["root"]:
        raise Damaged(file.name, "its checksum is another")
    form = int(np.frombuffer(head, HEAD)["format"][0])
    if form != FORMAT:
        raise InputError(f"`{file.name}` has format {form} of the delta log", why=f"this gyral reads {FORMAT}")
    try:
        specs = msgspec.json.decode(bytes(tail[: one["specs_bytes"]]), type=tuple[TableSpec, ...])
    except msgspec.DecodeError as error:
        raise InputError(f"`{file.name}` describes its tables in words of another gyral", why=str(error)) from None
    first, last, W, N = (int(one[name]) for name in ("first", "last", "workers", "applied_rows"))
    counts = (W, N, N * W, len(specs) * (last - first))
    noted = int(one["specs_bytes"])
    notes = bytes(tail[noted : noted + int(one["notes_bytes"])])
    starts = noted + (len(notes) + 7 & ~7) + 8 * np.cumsum([0, *counts])
    workers, applied_at, applied, versions = (
        np.frombuffer(tail, dtype, count, start)
        for dtype, count, start in zip(("<i8", "<u8", "<u8", "<u8"), counts, starts.tolist(), strict=False)
    )
    entries = np.frombuffer(tail, ENTRY, int(one["entries"]), int(starts[-1]))
    ends = entries["offset"] + sizes_of(entries, widths_of(specs))
    begins = np.append(entries["offset"], np.uint64(at))
    if begins[0] != HEAD.itemsize or (begins[1:] != ends).any():
        raise Damaged(file.name, "its segments do not fill it")
    return Listing(
        file.name, bool(one["base"]), int(one["number"]), int(one["epoch"]), int(one["owner"]), first, last,
        float(one["event_s"]), float(one["acknowledged_s"]), notes, specs, workers, applied_at, applied.reshape(N, W),
        versions.reshape(len(specs), last - first), entries, at,
    )  # fmt: skip


def damaged_in(part: Listing, entries: np.ndarray, words: np.ndarray, at: int = 0) -> np.ndarray:
    """Which of `entries` do not have their checksum, bool [N]; `words` is the file from byte `at` on, as uint64."""
    sizes = sizes_of(entries, widths_of(part.specs))
    offsets, digests = entries["offset"] - np.uint64(at), np.ascontiguousarray(entries["digest"])
    bad, start, found = np.zeros(len(entries), bool), 0, np.int64(0)
    while (found := kernel.check(words, offsets[start:], sizes[start:], digests[start:])) >= 0:
        bad[start + found] = True
        start += int(found) + 1
    return bad


def changes_of(part: Listing, entries: np.ndarray, buffer: bytearray | np.ndarray, at: int = 0) -> Changes:
    """Rows of segments of one table; `buffer` is the file from byte `at` on. Checksums are the caller's."""
    spec = part.specs[int(entries["table"][0])] if len(entries) else part.specs[0]
    starts = np.zeros((2, len(entries) + 1), np.int64)
    np.cumsum(entries["upserts"], out=starts[0, 1:])
    np.cumsum(entries["gone"], out=starts[1, 1:])
    rows = int(starts[0, -1])
    keys, stamps = np.empty(rows, np.int64), np.empty(rows, np.uint32)
    bodies = np.empty((rows, spec.body_bytes // 4), np.uint32)
    gone = np.empty(int(starts[1, -1]), np.int64)
    counters = np.empty((len(entries), int(entries["counters"].max(initial=0))), np.uint8)
    offsets = entries["offset"] - np.uint64(at)
    kernel.unpack(*views(buffer), offsets, keys, stamps, bodies, starts[0], gone, starts[1], counters)
    records = Records(keys, stamps, bodies.view(np.uint8).reshape(rows, spec.body_bytes))
    return Changes(np.ascontiguousarray(entries["bucket"]), records, starts[0], gone, starts[1], counters)


def whole(buckets: Sequence[Bucket]) -> Changes:
    """Whole buckets of one table, ascending, in the form in which they are written."""
    records = Records(*(np.concatenate(column) for column in zip(*(bucket.records for bucket in buckets), strict=True)))
    starts = np.cumsum([0, *(len(bucket.records) for bucket in buckets)], dtype=np.int64)
    numbers = np.array([bucket.bucket for bucket in buckets], np.uint16)
    counters = np.stack([bucket.counters for bucket in buckets])
    return Changes(numbers, records, starts, np.zeros(0, np.int64), np.zeros(len(buckets) + 1, np.int64), counters)


def same_specs(name: str, held: Mapping[str, TableSpec], specs: Sequence[TableSpec]) -> None:
    """Refuse a log that was written for another table of the same name."""
    for spec in specs:
        if held.get(spec.name, spec) != spec:
            mine, theirs = (msgspec.to_builtins(each) for each in (held[spec.name], spec))
            off = next(key for key in mine if mine[key] != theirs[key])
            why = f"`{off}` is {theirs[off]} in the log and {mine[off]} here"
            hint = "give the table another name, or start with an empty folder"
            raise InputError(f"the delta log is of another table `{spec.name}`", where=name, why=why, hint=hint)


def _root(covered: bytes, foot: np.ndarray) -> int:
    words = np.frombuffer(bytearray(covered + foot.tobytes()[: FOOT.fields["root"][1]]), np.uint64)  # type: ignore[index]
    return int(kernel.xxh64(words, 0, len(words)))
