"""The embedded log: one SQLite file a partition, WAL, `synchronous=FULL`, one batch a row, one writer with group commit.

Measured against a bare write + fdatasync loop of the same bytes it is 0.96–1.01x, and brings recovery and a unique key on the
batch id. Rejected: a hand-written segment file (same speed, no recovery), LMDB (0.4x, two syncs a commit), Redis and NATS
(acknowledge before fsync by default).

SQLite before 3.51.3 can corrupt a WAL that two connections write or checkpoint at the same moment. A partition therefore has
exactly one writing connection, held by an exclusive lock on `<partition>.lock`; readers open read-only and never checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, NamedTuple, Self

from gyral.errors import ConflictError, GyralError
from gyral.files import fsync_path, hold, make_folder
from gyral.log.base import Entry

GROUP_BATCHES = 256
DISK_HINT = "`gyral doctor` checks the disk; then run the same command again: what was stored is kept"
SUFFIX = ".sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_id TEXT NOT NULL UNIQUE,
    num_rows INTEGER NOT NULL,
    payload BLOB NOT NULL
)
"""


class LogError(GyralError):
    """The log could not make a batch durable; nothing was acknowledged."""


class _Pending(NamedTuple):
    batch_id: str
    payload: bytes
    num_rows: int
    done: Future[int]


class SqliteLog:
    """The log in a folder. Opening it starts nothing; the first append to a partition takes that partition's lock.

    Parameters
    ----------
    folder : `lake/log` of a project.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, _Writer] = {}
        self._lock = threading.Lock()

    def append(self, partition: str, batch_id: str, payload: bytes, num_rows: int) -> int:
        """Store a batch; returns its offset after the fsync. May be called from many threads, which then share one fsync.

        Raises
        ------
        ConflictError : another process writes this partition.
        LogError : the disk refused; the batch was not stored and may be sent again.
        """
        return self._writer(partition).submit(batch_id, payload, num_rows).result()

    def read(self, partition: str, from_offset: int, max_bytes: int = 64 << 20) -> Iterator[Entry]:
        """Yield batches from an offset on, about `max_bytes` of them."""
        path = self._path(partition)
        if not path.exists():
            return
        with _reader(path) as connection:
            size = 0
            rows = connection.execute(
                "SELECT offset - 1, batch_id, payload, num_rows FROM batches WHERE offset > ? ORDER BY offset",
                (from_offset,),
            )
            for row in rows:
                yield Entry(*row)
                size += len(row[2])
                if size >= max_bytes:
                    return

    def end(self, partition: str) -> int:
        """Offset the next batch will get."""
        path = self._path(partition)
        if not path.exists():
            return 0
        with _reader(path) as connection:
            row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batches'").fetchone()
            return int(row[0]) if row else 0

    def trim(self, partition: str, below: int) -> int:
        """Forget batches below an offset. Only the writer may: while another process writes the partition, nothing goes yet."""
        try:
            writer = self._writer(partition)
        except ConflictError:
            return 0
        return writer.trim(below)

    def partitions(self) -> list[str]:
        """Names of all partitions that exist."""
        if not self.folder.is_dir():
            return []
        return sorted(name.removesuffix(SUFFIX) for name in os.listdir(self.folder) if name.endswith(SUFFIX))

    def free_partition(self, prefix: str) -> str:
        """Take a partition of this kind that no other process writes, and keep it until `close`.

        A new one gets a name that never was: offsets that a lake has of a log that was removed are not taken for its own.
        """
        for name in [*self._writers, *self.partitions()]:
            if name.rpartition("-")[0] == prefix:
                try:
                    self._writer(name)
                except ConflictError:
                    continue
                return name
        name = f"{prefix}-{secrets.token_hex(4)}"
        self._writer(name)
        return name

    def close(self) -> None:
        """Finish what was appended and release the partitions; may be called twice."""
        with self._lock:
            for writer in self._writers.values():
                writer.close()
            self._writers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, partition: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", partition):
            raise ValueError(f"partition names are letters, digits, - and _: {partition!r}")
        return self.folder / f"{partition}{SUFFIX}"

    def _writer(self, partition: str) -> _Writer:
        with self._lock:
            if partition not in self._writers:
                self._writers[partition] = _Writer(self._path(partition))
            return self._writers[partition]


class _Writer:
    """The one thread and connection that write a partition."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._lock_file = _lock(path.with_suffix(".lock"))
        self._path = path
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._connection = self._open()
        self._guard, self._closing = threading.Lock(), threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=f"log-{path.stem}", daemon=True)
        self._thread.start()

    def submit(self, batch_id: str, payload: bytes, num_rows: int) -> Future[int]:
        done: Future[int] = Future()
        with self._closing:
            if self._is_closed:
                raise LogError("the log is closed", where=str(self._path))
            self._queue.put(_Pending(batch_id, payload, num_rows, done))
        return done

    def trim(self, below: int) -> int:
        try:
            with self._guard:
                gone = self._connection.execute("DELETE FROM batches WHERE offset <= ?", (below,)).rowcount
                self._connection.executescript("PRAGMA incremental_vacuum;")  # `execute` would free one page
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise LogError(
                "the log could not be trimmed", why=str(error), where=str(self._path), hint=f"nothing is lost: {DISK_HINT}"
            ) from None
        return gone

    def close(self) -> None:
        with self._closing:
            self._is_closed = True
            self._queue.put(None)
        self._thread.join()
        self._connection.close()
        self._lock_file.close()

    def _open(self) -> sqlite3.Connection:
        connection = None
        try:
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute(_SCHEMA)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            self._lock_file.close()
            raise LogError("the log cannot be opened", why=str(error), where=str(self._path), hint=DISK_HINT) from None
        fsync_path(self._path.parent)
        return connection

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
                self._connection.execute("BEGIN IMMEDIATE")
                offsets = [self._insert(pending) for pending in group]
                self._connection.execute("COMMIT")
            except Exception as error:  # whatever it is, those who wait must hear of it and the thread must live on
                with contextlib.suppress(sqlite3.Error):
                    self._connection.rollback()
                failure = LogError("the log could not store a batch", why=str(error), where=str(self._path), hint=DISK_HINT)
                for pending in group:
                    pending.done.set_exception(failure)
                return
        for pending, offset in zip(group, offsets, strict=True):
            pending.done.set_result(offset)

    def _insert(self, pending: _Pending) -> int:
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO batches (batch_id, num_rows, payload) VALUES (?, ?, ?)",
            (pending.batch_id, pending.num_rows, pending.payload),
        )
        if cursor.rowcount == 1 and cursor.lastrowid is not None:
            return cursor.lastrowid - 1
        row = self._connection.execute("SELECT offset FROM batches WHERE batch_id = ?", (pending.batch_id,)).fetchone()
        return int(row[0]) - 1


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection that never checkpoints."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        hint = "put the file back from a copy; if the lake is complete, remove it with its `-wal` and `-shm`"
        raise LogError("a log partition cannot be read", why=str(error), where=str(path), hint=hint) from None


def _lock(path: Path) -> IO[bytes]:
    held = hold(path)
    if held is None:
        raise ConflictError(
            f"another process writes the log partition `{path.stem}`",
            where=str(path),
            hint="wait for it to end, or stop it: `gyral doctor` lists running runs",
        )
    return held
