"""A shard's folder of cuts: what is in it is durable, in order, and of one owner. The `Keep` of a shard.

A part of a cut is written to a temporary name, synced, linked to its number, and the folder synced. A link, unlike a rename,
never replaces: two processes that believe they own the folder cannot both have cut 17, and whoever comes second is told.
Opening a folder *claims* the next number with a higher epoch before anything is recovered, so nothing of the old owner can
come after that.

A part that finds no room changes nothing, and may be written again: what is not durable is not acknowledged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gyral.errors import ConflictError, GyralError
from gyral.faults import fail_point
from gyral.files import alone, fsync_path, is_alive, make_folder
from gyral.params.chain import Chain, Folder, name_of, numbers
from gyral.params.keep import Kept, Part
from gyral.params.records import Records
from gyral.params.segment import CUT, UNKNOWN, WHOLE, Bucket, Encoder, same_specs, whole
from gyral.params.spec import BUCKETS, TableSpec


class LogFull(GyralError):
    """A part could not be stored; nothing changed, and it may be written again when there is room."""


class Deltas:
    """The log of one shard.

    Parameters
    ----------
    specs : of all tables of the shard; new ones may come, a changed one is refused.
    epoch : of this process as the owner of the folder, above all before it; None: the next.

    Attributes
    ----------
    versions : of every bucket of every table, as the log has them, uint64 [BUCKETS] by table.
    number : of the last file.

    Raises
    ------
    ConflictError : the folder has an owner of the same or a later epoch.
    Damaged : the log cannot be read.
    """

    def __init__(self, folder: Path, specs: Sequence[TableSpec], epoch: int | None = None) -> None:
        self.folder, self.specs = folder, {spec.name: spec for spec in specs}
        make_folder(folder)
        _clear(folder)
        while True:
            self._read(epoch)
            try:
                self._claim()
                break
            except ConflictError:  # the owner before wrote one more: read again
                continue

    def _read(self, epoch: int | None) -> None:
        with Chain(Folder(self.folder)) as chain:
            same_specs(str(self.folder), self.specs, list(chain.specs.values()))
            if epoch is not None and epoch <= chain.epoch:
                raise ConflictError(
                    f"epoch {epoch} may not write to this log", where=str(self.folder),
                    why=f"epoch {chain.epoch} owns it", hint="ask whoever places shards for a new epoch",
                )  # fmt: skip
            self.epoch, self.number, self._notes = epoch or chain.epoch + 1, chain.number, chain.notes()
            self._owner = max((int(each.max(initial=0)) for each in chain.owners.values()), default=0)
            self.versions = {name: np.zeros(BUCKETS, np.uint64) for name in self.specs} | chain.newest
            held = [name for name in self.specs if name in chain.specs]
            self._applied = {name: (chain.workers(), chain.applied(name)) for name in held}

    def notes(self) -> bytes:
        """Of the newest part; empty where nothing was written."""
        return self._notes

    def recover(self, spec: TableSpec) -> Iterator[Kept]:
        """Each bucket that was ever in a part, as the log had it when it was opened; memory: some chunks of 4 MB."""
        done: set[int] = set()
        while True:
            try:
                yield from self._recover(spec, done)
                return
            except FileNotFoundError:  # folded meanwhile: the rest is in the new base
                continue

    def _recover(self, spec: TableSpec, done: set[int]) -> Iterator[Kept]:
        with Chain(Folder(self.folder), last=self.number) as chain:
            workers, seqs = chain.workers(), chain.applied(spec.name)
            left: np.ndarray = np.asarray(seqs.any(axis=1))
            left[list(done)] = False
            for bucket in chain.buckets([spec.name]):
                at = bucket.bucket
                left[at] = False
                if at in done:
                    continue
                done.add(at)
                yield Kept(at, bucket.records, bucket.counters, bucket.version, workers, seqs[at])
            nothing = Records(np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros((0, spec.body_bytes), np.uint8))
            for at in np.flatnonzero(left).tolist():
                yield Kept(at, nothing, np.zeros(0, np.uint8), 0, workers, seqs[at])

    def write(self, part: Part) -> None:
        """Make a part durable. A bucket whose version is not one more than in this log came from another shard, whole.

        Raises
        ------
        LogFull : no room; the same part may be written again.
        ConflictError : another process owns the folder, or a later epoch the buckets: stop, and acknowledge nothing of this.
        """
        if part.owner_epoch < self._owner:
            raise ConflictError(
                f"buckets {part.first} to {part.last} of `{part.table}` have another owner", where=str(self.folder),
                why=f"epoch {part.owner_epoch} comes after {self._owner}", hint="this shard has to ask for the map of buckets",
            )  # fmt: skip
        versions = self.versions[part.table].copy()
        changed = part.changes.buckets
        kinds = np.where(part.versions == versions[changed] + np.uint64(1), CUT, WHOLE)
        versions[changed] = part.versions
        applied = self._wider(part)
        columns = np.searchsorted(applied[0], part.workers)
        fresh = np.flatnonzero((applied[1][part.first : part.last, columns] != part.applied).any(axis=1))
        chunks: list[Any] = []
        encoder = Encoder([self.specs[part.table]], chunks.append)
        encoder.add(0, kinds, part.changes, part.versions, part.owner_epoch, UNKNOWN if part.rows is None else part.rows)
        encoder.finish(
            base=False, number=self.number + 1, epoch=self.epoch, first=part.first, last=part.last,
            versions=versions[None, part.first : part.last], workers=part.workers, applied_at=fresh + part.first,
            applied=part.applied[fresh], owner=part.owner_epoch, event_s=part.event_s, acknowledged_s=part.acknowledged_s,
            notes=part.notes,
        )  # fmt: skip
        self._store(chunks)
        applied[1][(fresh + part.first)[:, None], columns[None]] = part.applied[fresh]
        self.versions[part.table], self._applied[part.table] = versions, applied
        self._owner, self._notes = part.owner_epoch, part.notes

    def _claim(self) -> None:
        chunks: list[Any] = []
        none = np.zeros(0, np.int64)
        Encoder(list(self.specs.values()), chunks.append).finish(
            base=False, number=self.number + 1, epoch=self.epoch, first=0, last=0, versions=np.zeros((len(self.specs), 0)),
            workers=none, applied_at=none, applied=none, notes=self._notes,
        )  # fmt: skip
        self._store(chunks)

    def _wider(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """What the log has of all workers that are known now."""
        before, seqs = self._applied.get(part.table, (np.zeros(0, np.int64), np.zeros((BUCKETS, 0), np.uint64)))
        workers = np.union1d(before, part.workers)
        if len(workers) == len(before):
            return before, seqs
        wider = np.zeros((BUCKETS, len(workers)), np.uint64)
        wider[:, np.searchsorted(workers, before)] = seqs
        return workers, wider

    def _store(self, chunks: list[Any]) -> None:
        number = self.number + 1
        try:
            store(self.folder, name_of("cut", number), lambda write: [write(each) for each in chunks])
        except FileExistsError:
            if (self.folder / name_of("cut", number)).read_bytes() != b"".join(chunks):  # else: all but the last sync was done
                raise ConflictError(
                    "another process owns this delta log", where=str(self.folder), why=f"it made cut {number} first",
                    hint="this shard has to stop: a newer one answers for its buckets",
                ) from None  # fmt: skip
            fsync_path(self.folder)
        except OSError as error:
            raise LogFull(
                f"cut {number} could not be stored", where=str(self.folder), why=error.strerror or str(error),
                hint="make room: it is written then, and nothing was lost",
            ) from None  # fmt: skip
        self.number = number


def compact(folder: Path, keep_s: float = 600.0, keep_bytes: int = 1 << 30) -> int:
    """Fold base and cuts into a new base and remove files that it holds; returns the base's number (0: the log is empty).

    May run in any process while the owner writes: it reads cuts that are there already and memory stays at some chunks of 4 MB.
    Cuts that the base holds stay for followers while they are younger than `keep_s` and take no more than `keep_bytes`; one
    that is slower reads the base instead, so none ever lacks anything.

    Raises
    ------
    Damaged : a segment that is needed is not what was written; no base is made and nothing removed.
    LogFull : no room for the base; nothing removed.
    ConflictError : another process folds it.
    """
    with alone(folder / "fold", "another process folds this delta log"), Chain(Folder(folder)) as chain:
        number = chain.number
        if not chain.parts[-1:] or chain.parts[-1].base:
            _prune(folder, number, keep_s, keep_bytes)
            return number
        try:
            store(folder, name_of("base", number), lambda write: _write_base(chain, write), replace=True)
        except OSError as error:
            raise LogFull(
                f"base {number} could not be stored", where=str(folder), why=error.strerror or str(error),
                hint="make room; the cuts stay as they are",
            ) from None  # fmt: skip
    _prune(folder, number, keep_s, keep_bytes)
    return number


def _write_base(chain: Chain, write: Callable[[Any], Any]) -> None:
    specs = list(chain.specs.values())
    encoder = Encoder(specs, write)
    for place, spec in enumerate(specs):
        for every in _batches(chain, spec.name):
            each = whole(every)
            versions, owners = ([getattr(bucket, name) for bucket in every] for name in ("version", "owner"))
            encoder.add(place, WHOLE, each, versions, owners, np.diff(each.upsert_starts))
    applied = np.concatenate([chain.applied(spec.name) for spec in specs])
    used = np.flatnonzero(applied.any(axis=1))
    encoder.finish(
        base=True, number=chain.number, epoch=chain.epoch, first=0, last=BUCKETS,
        versions=np.stack([chain.newest[spec.name] for spec in specs]), workers=chain.workers(), applied_at=used,
        applied=applied[used], event_s=max(part.event_s for part in chain.parts),
        acknowledged_s=max(part.acknowledged_s for part in chain.parts), notes=chain.notes(),
    )  # fmt: skip


def _batches(chain: Chain, table: str, size_bytes: int = 4 << 20) -> Iterator[list[Bucket]]:
    held: list[Bucket] = []
    size = 0
    for bucket in chain.buckets([table]):
        held.append(bucket)
        size += bucket.records.bodies.nbytes
        if size > size_bytes:
            yield held
            held, size = [], 0
    if held:
        yield held


def _prune(folder: Path, base: int, keep_s: float, keep_bytes: int) -> None:
    """Remove what base `base` holds: older bases, and cuts oldest first, so that those that stay have no gap."""
    names = os.listdir(folder)
    for number in numbers(names, "base"):
        if number < base:
            (folder / name_of("base", number)).unlink(missing_ok=True)
            fail_point("params.base.removed")
    held = [folder / name_of("cut", number) for number in numbers(names, "cut") if number <= base]
    about = [path.stat() for path in held]
    size = sum(each.st_size for each in about)
    for path, each in zip(held, about, strict=True):
        if size <= keep_bytes and time.time() - each.st_mtime <= keep_s:
            break
        path.unlink(missing_ok=True)
        size -= each.st_size
        fail_point("params.cut.removed")
    fsync_path(folder)


def store(folder: Path, name: str, fill: Callable[[Callable[[Any], Any]], Any], replace: bool = False) -> None:
    """Make a file durable under a name that is free (FileExistsError otherwise, except to `replace`)."""
    point = f"params.{name.partition('-')[0]}"
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb", buffering=0) as file:
            fill(lambda data: _write_all(file.fileno(), data))
            fail_point(f"{point}.written")
            os.fsync(file.fileno())
        fail_point(f"{point}.synced")
        if replace:
            os.replace(temporary, folder / name)
        else:
            os.link(temporary, folder / name)
        fail_point(f"{point}.named")
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(folder)
    fail_point(f"{point}.durable")


def _write_all(fd: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(fd, view) :]


def _clear(folder: Path) -> None:
    """Remove temporary files of processes that died."""
    for left in folder.glob(".*.tmp"):
        if not is_alive(int(left.name.split(".")[-2])):
            left.unlink(missing_ok=True)
