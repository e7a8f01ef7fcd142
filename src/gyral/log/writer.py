"""The one thread that writes a partition of the embedded log: group commit, sealing, trimming, batch ids.

Everything that arrives while the disk is busy is stored by the next commit, so the more come at once, the fewer flushes each
costs. Each caller hears of its own batch, and whatever goes wrong the thread lives on.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, NamedTuple

from gyral.errors import ConflictError, GyralError
from gyral.faults import fail_point
from gyral.files import fsync_path, hold, make_folder

GROUP_BATCHES = 256
SEGMENT_BYTES = 256 << 20
"""Payload after which a segment is sealed."""
PAGE_BYTES = 8192
"""Of 4, 8, 16 and 32 KiB the best for batches of 20 to 80 kB, by less than the disk's noise; 32 KiB costs small batches."""
NOTE_IDS = 256
"""Ids are written to their file this many at a time; those of fewer batches are in memory, and in the segments."""
KEEP_IDS = 1_000_000
"""Newest batch ids of a partition that are known after their segments went; about 60 MB."""
DISK_HINT = "`gyral doctor` checks the disk; then run the same command again: what was stored is kept"
SUFFIX = ".sqlite"
IDS = f"ids{SUFFIX}"

_BATCHES = """
CREATE TABLE IF NOT EXISTS batches (
    offset INTEGER PRIMARY KEY,
    batch_id TEXT NOT NULL,
    num_rows INTEGER NOT NULL,
    payload BLOB NOT NULL
)
"""
_IDS = "CREATE TABLE IF NOT EXISTS ids (batch_id TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID"


class LogError(GyralError):
    """The log could not make a batch durable; nothing was acknowledged."""


class Gone(LogError):
    """Batches that somebody asked for are not in the log any more; no waiting brings them back."""


class Unlinked(Exception):
    """A segment went between the look into the folder and its opening."""


class _Pending(NamedTuple):
    batch_id: str
    payload: bytes
    num_rows: int
    done: Future[int]


class Writer:
    """The one thread that writes a partition, with its connections to the last segment and to the ids."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._lock_file = _lock(folder)
        self._folder = folder
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._guard, self._closing = threading.RLock(), threading.Lock()
        self._is_closed = self._is_sealed = False
        self._unnoted: dict[str, int] = {}
        """Ids of stored batches that are not in the ids file yet."""
        try:
            with _told("the log cannot be opened", folder):
                self._open()
                self._open_ids()
        except LogError:
            self._lock_file.close()
            raise
        self._thread = threading.Thread(target=self._work, name=f"log-{folder.name}", daemon=True)
        self._thread.start()

    def submit(self, batch_id: str, payload: bytes, num_rows: int) -> Future[int]:
        done: Future[int] = Future()
        with self._closing:
            if self._is_closed:
                raise LogError("the log is closed", where=str(self._folder))
            self._queue.put(_Pending(batch_id, payload, num_rows, done))
        return done

    def trim(self, below: int, seal: bool = False) -> int:
        with self._guard, _told("the log could not be trimmed", self._folder, f"nothing is lost: {DISK_HINT}"):
            if self._size and (seal or self._end <= below):
                self._rotate()
            segments = segments_of(self._folder)
            gone = [path for path, later in itertools.pairwise(segments) if first_offset(later) <= below]
            if not gone:
                return 0
            self._note_ids()
            if self._unnoted:
                return 0
            self._ids.execute("DELETE FROM ids WHERE offset < ?", (self._end - KEEP_IDS,))
            self._ids.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # with its flush: from here on only this file knows them
            fail_point("log.trimming")
            for path in gone:
                for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                    each.unlink(missing_ok=True)
            fsync_path(self._folder)
            return first_offset(segments[len(gone)]) - first_offset(segments[0])

    def close(self) -> None:
        with self._closing:
            self._is_closed = True
            self._queue.put(None)
        self._thread.join()
        self._note_ids()
        self._connection.close()
        self._ids.close()
        self._lock_file.close()

    def _open(self) -> None:
        """Open the last segment, making the first one when there is none, and close what a crash left open."""
        segments = segments_of(self._folder)
        if not segments:
            segments = [_make_segment(self._folder, 0)]
        for path in segments[:-1]:
            if path.with_name(f"{path.name}-wal").exists():
                _connect(path, "FULL").close()
        self._path = segments[-1]
        self._connection = _connect(self._path, "FULL")
        last, size = self._connection.execute("SELECT max(offset), sum(length(payload)) FROM batches").fetchone()
        self._end = first_offset(self._path) if last is None else last + 1
        self._size = size or 0

    def _open_ids(self) -> None:
        """Open the ids file and take up what a crash kept from it; the segments have that."""
        self._ids = _connect(self._folder / IDS, "NORMAL")
        self._ids.execute(_IDS)
        (known,) = self._ids.execute("SELECT coalesce(max(offset) + 1, 0) FROM ids").fetchone()
        for path in segments_of(self._folder) if known < self._end else ():
            with reader(path) as connection:
                rows = connection.execute("SELECT batch_id, offset FROM batches WHERE offset >= ?", (known,))
                self._unnoted.update(rows)
        self._note_ids()

    def _note_ids(self) -> None:
        """Write ids into their file; where the disk refuses, they are remembered until it does not."""
        if not self._unnoted:
            return
        try:
            self._ids.execute("BEGIN")
            self._ids.executemany("INSERT OR IGNORE INTO ids VALUES (?, ?)", self._unnoted.items())
            self._ids.execute("COMMIT")
            self._unnoted.clear()
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._ids.rollback()

    def _rotate(self) -> None:
        """Seal the last segment and begin one that follows it."""
        self._is_sealed = True  # readers may look into the next one from here on, whatever fails below
        following = _make_segment(self._folder, self._end)
        fail_point("log.rotating")
        connection = _connect(following, "FULL")
        self._connection.close()  # checkpoints, so a sealed segment is one file
        self._connection, self._path, self._size, self._is_sealed = connection, following, 0, False

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            is_last = False
            while len(group) < GROUP_BATCHES and not is_last:
                try:
                    pending = self._queue.get_nowait()
                except queue.Empty:
                    break
                if pending is None:
                    is_last = True
                else:
                    group.append(pending)
            self._commit(group)
            if is_last:
                return

    def _commit(self, group: list[_Pending]) -> None:
        with self._guard:
            try:
                if self._is_sealed or self._size >= SEGMENT_BYTES:
                    self._rotate()
                offsets, new = self._store(group)
            except Exception as error:  # whatever it is, those who wait must hear of it and the thread must live on
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()
                failure = LogError("the log could not store a batch", why=str(error), where=str(self._path), hint=DISK_HINT)
                for pending in group:
                    pending.done.set_exception(failure)
                return
            self._end += len(new)
            self._size += sum(len(pending.payload) for pending in new)
            if len(self._unnoted) >= NOTE_IDS:
                self._note_ids()
        fail_point("log.committed")
        for pending, offset in zip(group, offsets, strict=True):
            pending.done.set_result(offset)

    def _store(self, group: list[_Pending]) -> tuple[list[int], list[_Pending]]:
        """Commit what is new in a group; returns the offset of each batch, and the new ones."""
        offsets: list[int] = []
        new: dict[str, _Pending] = {}
        ids: dict[str, int] = {}
        for pending in group:
            offset = self._known(pending.batch_id)
            if offset is None and (offset := ids.get(pending.batch_id)) is None:
                offset = ids[pending.batch_id] = self._end + len(new)
                new[pending.batch_id] = pending
            offsets.append(offset)
        if new:
            rows = [(ids[each.batch_id], each.batch_id, each.num_rows, each.payload) for each in new.values()]
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO batches VALUES (?, ?, ?, ?)", rows)
            fail_point("log.inserted")
            self._connection.execute("COMMIT")
            self._unnoted.update(ids)
        return offsets, list(new.values())

    def _known(self, batch_id: str) -> int | None:
        if batch_id in self._unnoted:
            return self._unnoted[batch_id]
        row = self._ids.execute("SELECT offset FROM ids WHERE batch_id = ?", (batch_id,)).fetchone()
        return None if row is None else int(row[0])


def segments_of(folder: Path) -> list[Path]:
    """Segments of a partition in order."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [folder / name for name in sorted(names) if re.fullmatch(rf"\d{{20}}{SUFFIX}", name)]


def first_offset(path: Path) -> int:
    """Of the batches in a segment; it is the segment's name."""
    return int(path.name.removesuffix(SUFFIX))


def _make_segment(folder: Path, first: int) -> Path:
    """Make an empty segment, complete before it has its name."""
    path = folder / f"{first:020d}{SUFFIX}"
    temporary = folder / f".{path.name}.tmp"
    for ending in ("", "-journal", "-wal", "-shm"):  # of one that was killed here; its journal would be played into this one
        temporary.with_name(temporary.name + ending).unlink(missing_ok=True)
    connection = sqlite3.connect(temporary, isolation_level=None)
    try:  # the table before the WAL, so that what is renamed is all of it, or an error was raised
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_BATCHES)
        connection.execute("PRAGMA journal_mode=WAL")  # and this before the name: readers cannot undo half a change of it
    finally:
        connection.close()
    os.replace(temporary, path)
    fsync_path(folder)
    return path


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection that never checkpoints."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        if not path.exists():
            raise Unlinked from None
        hint = "put the file back from a copy; if the lake is complete, remove its partition's folder"
        raise LogError("a log segment cannot be read", why=str(error), where=str(path), hint=hint) from None


@contextlib.contextmanager
def _told(what: str, where: Path, hint: str = DISK_HINT) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise LogError(what, why=str(error), where=str(where), hint=hint) from None


def _lock(folder: Path) -> IO[bytes]:
    held = hold(folder / "lock")
    if held is None:
        raise ConflictError(
            f"another process writes the log partition `{folder.name}`",
            where=str(folder),
            hint="wait for it to end, or stop it: `gyral doctor` lists running runs",
        )
    return held
