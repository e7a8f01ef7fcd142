"""A table as serving reads it: weights only, in memory that one process writes and any number map, always at hand.

A replica is one sparse file under `/dev/shm` or a run's folder. The writer puts each row there whole before it shows it
(`replica_kernel`), so readers need no lock, keep their last rows when the writer dies, and see a new one's go on. A bucket's
version is stored after its rows: a writer that was killed in between applies the same changes again, which changes nothing.
Space is asked of the file system before it is touched, so a full one is an error and not a killed process.

Costs: 8 bytes of key and 10 to 21 of index a row, `dtype` int8 keeps dim + 4 bytes of weights instead of 4 dim. What is
removed is used for the next rows; the file itself does not become smaller.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec
import numpy as np

from gyral.errors import ConflictError, GyralError, InputError, NotFound
from gyral.files import hold, make_folder
from gyral.params import replica_kernel as kernel
from gyral.params.hashing_kernel import INITS, first_values
from gyral.params.records import Changes, weights_of
from gyral.params.segment import Bucket
from gyral.params.spec import BUCKETS, Optimizer, TableSpec

PAGE = 4096
STEP_BYTES = 4 << 20
MAX_ROWS = 1 << 24
SPARE = 2
"""Slots that hold none of `max_rows`: the first, and the one that the row in writing goes to."""
MAGIC = int.from_bytes(b"gyREPLI1", "little")
CLOSED, FORM_BYTES, PARTS, ROWS, ACKNOWLEDGED, EVENT, VISIBLE = 1, 2, 8, 9, 10, 11, 12
"""Words of the head; 0 is `MAGIC`. `CLOSED`: another file has this name now."""
BINS_A_DOUBLING, BINS, FINEST_S = 8, 256, 1e-4
Weights = Literal["f32", "bf16", "int8"]


class Form(msgspec.Struct, frozen=True):
    """What a replica's file holds; two of one form have one layout."""

    spec: TableSpec
    dtype: Weights
    max_rows: int
    boot: str

    @property
    def held(self) -> TableSpec:
        """The table as its rows are here: weights of `dtype`, no state."""
        return msgspec.structs.replace(self.spec, dtype=self.dtype, optimizer=Optimizer("sgd"))


class Freshness(NamedTuple):
    """How old what is served is, in seconds.

    Attributes
    ----------
    now : since the newest event that is visible was acknowledged.
    p50, p99 : of all parts so far, from their newest event's acknowledgement until it was visible (bins of 9 %).
    parts : so many.
    """

    now: float
    p50: float
    p99: float
    parts: int


class All(NamedTuple):
    """All rows at some time between asking and answering: int64 [N], float32 [N, D]; `version` rises when any changes."""

    keys: np.ndarray
    rows: np.ndarray
    version: int


class _Map:
    """The file, mapped."""

    def __init__(self, path: Path, file: IO[bytes], form: Form, access: int) -> None:
        self.path, self.form, self.width = path, form, form.held.weight_bytes // 4
        self.cells_at = 3 * PAGE + 8 * 4 * BUCKETS
        num_cells = 8 * (form.max_rows + 8 * BUCKETS)
        self.rows_at = self.cells_at + 8 * num_cells
        self.size = self.rows_at + 4 * (self.width + 2) * (form.max_rows + SPARE)
        self.size = -(-self.size // PAGE) * PAGE
        if access == mmap.ACCESS_WRITE:
            file.truncate(self.size)
        held = mmap.mmap(file.fileno(), self.size, access=access)
        octets = np.frombuffer(held, np.uint8)
        self.head = octets[:PAGE].view(np.uint64)
        self.bins = octets[2 * PAGE : 3 * PAGE].view(np.uint64)[:BINS]
        lists = octets[3 * PAGE : self.cells_at].view(np.uint64).reshape(4, BUCKETS)
        self.places, self.inserted, self.versions, self.owners = lists
        self.cells = octets[self.cells_at : self.rows_at].view(np.uint64)
        self.rows = octets[self.rows_at :].view(np.uint32)
        self.salt = np.uint64(form.spec.salt)


class Writer:
    """The one process that changes a replica; a new one goes on where an old one died.

    Parameters
    ----------
    path : of the file; made where there is none, or one of another form or from before the machine started.
    dtype : weights are kept as; None: as the table does.
    max_rows : at most; address space is reserved for so many, memory only for those there are.

    Raises
    ------
    ConflictError : another process writes it.
    """

    def __init__(self, path: Path, spec: TableSpec, dtype: Weights | None = None, max_rows: int = 0) -> None:
        make_folder(path.parent)
        lock = hold(path.with_name(f".{path.name}.lock"))
        if lock is None:
            raise ConflictError(
                f"another process writes the replica `{path.name}`",
                where=str(path.parent),
                hint="one follower a folder: stop it",
            )
        self._lock = lock
        if dtype not in (None, "f32", "int8", spec.dtype):
            raise InputError(f"a replica of a table of {spec.dtype} has weights of f32, int8 or {spec.dtype}, not {dtype}")
        form = Form(spec, dtype or spec.dtype, max_rows or spec.max_rows or MAX_ROWS, _boot())
        if form.max_rows + SPARE >= 1 << kernel.SLOT_BITS:
            raise InputError(f"a replica holds at most {(1 << kernel.SLOT_BITS) - SPARE - 1:,} rows, not {form.max_rows:,}")
        self.form, self.spec = form, spec
        self._map = self._open(path, form)
        self.versions, self.owners = self._map.versions, self._map.owners
        self.counts, self._used = np.zeros(BUCKETS, np.uint64), np.zeros(BUCKETS, np.uint64)
        self._free = np.empty(form.max_rows + SPARE, np.uint32)
        self._regions, self._num_regions = np.empty((32, 3 * BUCKETS), np.uint64), np.zeros(32, np.int64)
        self._meta = np.zeros(kernel.META, np.uint64)
        held = self._map
        kernel.take_over(
            held.cells, held.places, self.counts, self._used, self._free, self._meta, np.zeros(form.max_rows + SPARE, np.uint8)
        )
        self._room = [int(self._meta[kernel.CELLS_AT]) * 8, int(self._meta[kernel.SLOTS_AT]) * 4 * (held.width + 2)]
        self._meta[kernel.CELLS_END], self._meta[kernel.SLOTS_END] = self._meta[kernel.CELLS_AT], self._meta[kernel.SLOTS_AT]

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def nbytes(self) -> int:
        """What the file takes of the disk or of memory."""
        return os.fstat(self._file.fileno()).st_blocks * 512

    def patch(self, changes: Changes, versions_N: Any, owners_N: Any) -> None:
        """Show what changed in buckets, rows first and then the buckets' versions; twice is as once.

        Raises
        ------
        GyralError : no room; the rows before stay as they are, and the same changes may be applied again.
        """
        held = self._map
        kernel.remove(
            held.cells, held.places, self.counts, held.rows, held.width, held.salt, self._free, self._meta, changes.gone_keys
        )
        payload = self._encoded(changes.upserts.bodies)
        at: Any = 0
        while True:
            at, why = kernel.upsert(
                held.cells, held.places, held.inserted, self.counts, held.rows, held.salt, self._used, self._free,
                self._regions, self._num_regions, self._meta, changes.upserts.keys, payload, at,
            )  # fmt: skip
            if why == kernel.DONE:
                break
            self._reserve(0 if why == kernel.NO_CELLS else 1, STEP_BYTES)
        held.versions[changes.buckets], held.owners[changes.buckets] = versions_N, owners_N
        held.head[ROWS] = len(self)
        held.head[PARTS] += np.uint64(1)

    def replace(self, bucket: Bucket) -> None:
        """Show a bucket as it is, whatever was there."""
        keys, _ = self._bucket(bucket.bucket)
        gone = np.setdiff1d(keys, bucket.records.keys)
        starts = np.array([0, len(bucket.records)], np.int64), np.array([0, len(gone)], np.int64)
        numbers = np.array([bucket.bucket], np.uint16)
        changes = Changes(numbers, bucket.records, starts[0], gone, starts[1], bucket.counters[None])
        self.patch(changes, bucket.version, bucket.owner)

    def mark(self, acknowledged_s: float, event_s: float, now: float) -> None:
        """Note the times of the newest event that is now visible, and how long it took."""
        times = self._map.head[:16].view(np.float64)
        newest = max(times[ACKNOWLEDGED], acknowledged_s)  # not later than now: the clock of a shard may have been ahead
        times[ACKNOWLEDGED], times[EVENT] = min(newest, now), max(times[EVENT], event_s)
        times[VISIBLE] = now
        place = np.log2(max(now - acknowledged_s, FINEST_S) / FINEST_S) * BINS_A_DOUBLING
        self._map.bins[min(int(place), BINS - 1)] += np.uint64(1)

    def close(self) -> None:
        """Let another process write. Readers stay."""
        self._lock.close()
        self._file.close()

    def _bucket(self, bucket: int) -> tuple[np.ndarray, np.ndarray]:
        held, count = self._map, int(self.counts[bucket])
        keys, rows = np.empty(count, np.int64), np.empty((count, held.width), np.uint32)
        kernel.scan(held.cells, held.places, held.inserted, held.rows, held.width, bucket, bucket + 1, keys, rows)
        return keys, rows

    def _encoded(self, bodies_KB: np.ndarray) -> np.ndarray:
        """Weights as they are kept here, uint32 [K, W]."""
        if self.form.dtype == self.spec.dtype:
            at = 4 * self.spec.optimizer.state_words(self.spec.dim)
            return np.ascontiguousarray(bodies_KB[:, at:]).view(np.uint32)
        weights_KD = weights_of(self.spec, bodies_KB)
        if self.form.dtype == "f32":
            return np.ascontiguousarray(weights_KD).view(np.uint32)
        out = np.zeros((len(weights_KD), 4 * self._map.width), np.uint8)
        scales = np.abs(weights_KD).max(axis=1, initial=0).astype(np.float32) / np.float32(127)
        out[:, :4] = scales[:, None].view(np.uint8)
        levels = weights_KD / np.where(scales > 0, scales, 1)[:, None]
        out[:, 4 : 4 + self.spec.dim] = np.rint(levels).astype(np.int8).view(np.uint8)
        return out.view(np.uint32)

    def _open(self, path: Path, form: Form) -> _Map:
        described = msgspec.json.encode(form)
        with open(path, "rb") if path.exists() else open(os.devnull, "rb") as there:
            head = there.read(2 * PAGE)
        if head[PAGE : PAGE + len(described)] == described and head[:8] == MAGIC.to_bytes(8, "little"):
            self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 (as long as this writer)
            return _Map(path, self._file, form, mmap.ACCESS_WRITE)
        if head:  # readers of the file before look for the new one
            with open(path, "r+b") as before:
                before.seek(8 * CLOSED)
                before.write((1).to_bytes(8, "little"))
        temporary = path.with_name(f".{path.name}.tmp")
        self._file = open(temporary, "w+b", buffering=0)  # noqa: SIM115
        held = _Map(path, self._file, form, mmap.ACCESS_WRITE)
        os.posix_fallocate(self._file.fileno(), 0, held.cells_at)
        self._file.seek(PAGE)
        self._file.write(described)
        held.head[FORM_BYTES], held.head[0] = len(described), MAGIC
        os.replace(temporary, path)
        return held

    def _reserve(self, which: int, more: int) -> None:
        """Room for more cells (0) or rows (1); asked of the file system, since touching what it does not have kills."""
        held = self._map
        start, end = ((held.cells_at, held.rows_at), (held.rows_at, held.size))[which]
        at = start + self._room[which]
        more = min(more, end - at)
        if more <= 0 or (which and self._meta[kernel.SLOTS_END] == self.form.max_rows + SPARE):
            raise GyralError(
                f"the replica `{held.path.name}` is full", where=str(held.path),
                why=f"it may hold {self.form.max_rows:,} rows", hint="start it with a larger `max_rows`",
            )  # fmt: skip
        try:
            os.posix_fallocate(self._file.fileno(), at, more)
        except OSError as error:
            raise GyralError(
                f"the replica `{held.path.name}` cannot grow", where=str(held.path), why=error.strerror or str(error),
                hint="make room there, or put the replica elsewhere; what it holds stays readable",
            ) from None  # fmt: skip
        self._room[which] += more
        self._meta[kernel.CELLS_END] = self._room[0] // 8
        self._meta[kernel.SLOTS_END] = min(self._room[1] // (4 * (held.width + 2)), self.form.max_rows + SPARE)


class Replica:
    """What serving holds: rows by key, all rows, and how fresh they are.

    Raises
    ------
    NotFound : there is no such file (yet).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = self._open()

    def _open(self) -> _Map:
        try:
            with open(self.path, "rb") as file:
                head = file.read(2 * PAGE)
                size = int.from_bytes(head[8 * FORM_BYTES : 8 * FORM_BYTES + 8], "little")
                if head[:8] != MAGIC.to_bytes(8, "little") or size > PAGE:
                    raise InputError(f"`{self.path}` is not a replica of a table")
                form = msgspec.json.decode(head[PAGE : PAGE + size], type=Form)
                return _Map(self.path, file, form, mmap.ACCESS_READ)
        except FileNotFoundError:
            raise NotFound(
                f"there is no replica `{self.path.name}`",
                where=str(self.path.parent),
                hint="start the process that follows the table",
            ) from None

    def _now(self) -> _Map:
        if self._map.head[CLOSED]:
            self._map = self._open()
        return self._map

    @property
    def spec(self) -> TableSpec:
        return self._map.form.spec

    def __len__(self) -> int:
        return int(self._now().head[ROWS])

    @property
    def version(self) -> int:
        """Rises whenever anything changed."""
        return int(self._now().head[PARTS])

    @property
    def versions(self) -> np.ndarray:
        """Of the buckets, uint64 [BUCKETS]."""
        return self._now().versions

    def lookup(self, keys_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of keys, float32 [K, D], and whether each is held; those that are not have the table's first values."""
        held = self._now()
        keys_K = np.ascontiguousarray(keys_K, np.int64)
        out, is_held = np.empty((len(keys_K), held.width), np.uint32), np.empty(len(keys_K), bool)
        kernel.lookup(held.cells, held.places, held.rows, held.width, keys_K, held.salt, out, is_held)
        rows_KD = self._decoded(out)
        if not is_held.all():
            spec, missing = held.form.spec, keys_K[~is_held]
            first = np.empty((len(missing), spec.dim), np.float32)
            first_values(missing, held.salt, INITS[spec.init], np.float32(spec.scale), first)
            rows_KD = np.ascontiguousarray(rows_KD)
            rows_KD[~is_held] = first
        return rows_KD, is_held

    def all(self) -> All:
        """All keys and rows, for retrieval that compares with each; memory: a copy of them."""
        held = self._now()
        version, room = self.version, len(self) + 1024
        while True:
            keys, rows = np.empty(room, np.int64), np.empty((room, held.width), np.uint32)
            count = kernel.scan(held.cells, held.places, held.inserted, held.rows, held.width, 0, BUCKETS, keys, rows)
            if count >= 0:
                return All(keys[:count], self._decoded(rows[:count]), version)
            room *= 2

    def freshness(self, now: float | None = None) -> Freshness:
        """How old what is served is; `now`: seconds by the clock of acknowledgements (under replay, the replay's)."""
        held = self._now()
        times, bins = held.head[:16].view(np.float64), held.bins.astype(np.int64)
        shares = np.cumsum(bins) / max(1, bins.sum())
        p50, p99 = (FINEST_S * 2 ** ((int(np.searchsorted(shares, share)) + 0.5) / BINS_A_DOUBLING) for share in (0.5, 0.99))
        age = (time.time() if now is None else now) - float(times[ACKNOWLEDGED])
        return Freshness(age, p50, p99, int(bins.sum()))

    def _decoded(self, rows_KW: np.ndarray) -> np.ndarray:
        return weights_of(self._map.form.held, rows_KW.view(np.uint8).reshape(len(rows_KW), 4 * self._map.width))


def _boot() -> str:
    """What changes when the machine starts anew: memory that was shared before is no longer whole."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
