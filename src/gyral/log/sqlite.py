"""The embedded log: rotated SQLite files, WAL, `synchronous=FULL`, one batch a row, one writer with group commit a partition.

Measured against a bare write + fdatasync loop of the same bytes it is 0.95–1.04x at 23 kB a batch and 0.68–0.71x at 81 kB, on a
disk that flushes in 35 µs, and brings recovery. Rejected: a hand-written segment file (no recovery), LMDB (0.4x, two syncs a
commit), Redis and NATS (acknowledge before fsync by default).

A partition is a folder of segments, each named after its first offset. A segment is sealed at 256 MB, and trimming unlinks
whole segments (the last one too, when everything in it may go), which costs the same however much they hold. Batch ids live in
`ids.sqlite` beside them, so a retry is known after its segment is gone: that file is written after every 256 batches and not
flushed, because a crash can only take from it what the segments still have, and it is flushed before one of them goes.

SQLite before 3.51.3 can corrupt a WAL that two connections write or checkpoint at the same moment. A partition therefore has
exactly one process and thread that writes, held by an exclusive lock on `lock`; readers open read-only and never checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from gyral.errors import ConflictError
from gyral.log.base import Entry, EventLog
from gyral.log.writer import SUFFIX, Gone, LogError, Unlinked, Writer, first_offset, reader, segments_of


class SqliteLog(EventLog):
    """The log in a folder. Opening it starts nothing; the first append to a partition takes that partition's lock.

    Parameters
    ----------
    folder : `lake/log` of a project.
    """

    others_write = False
    largest_bytes = 1 << 30

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, Writer] = {}
        self._lock = threading.Lock()

    def submit(self, partition: str, batch_id: str, payload: bytes, num_rows: int) -> Future[int]:
        """Begin an append that does not wait for the disk; the future has the offset once the batch is on it."""
        return self._writer(partition).submit(batch_id, payload, num_rows)

    def read(self, partition: str, from_offset: int, max_bytes: int = 64 << 20) -> Iterator[Entry]:
        """Yield batches from an offset on, about `max_bytes` of them.

        Raises
        ------
        LogError : batches from this offset on were trimmed, or a segment cannot be read.
        """
        size, offset = 0, from_offset
        while (found := self._segment_with(partition, offset)) is not None:
            path, later = found  # listed before it is read: while that goes on, it may be filled and the next one begun
            before = offset
            try:
                with reader(path) as connection:
                    rows = connection.execute(
                        "SELECT offset, batch_id, payload, num_rows FROM batches WHERE offset >= ? ORDER BY offset", (offset,)
                    )
                    for row in rows:
                        yield Entry(*row)
                        offset += 1
                        size += len(row[2])
                        if size >= max_bytes:
                            return
            except Unlinked:  # trimmed between the look and the opening: look again
                continue
            if offset == before:
                if later is None:
                    return
                raise _missing(path, offset, first_offset(later))

    def end(self, partition: str) -> int:
        """Offset the next batch will get."""
        while segments := self._segments(partition):
            with contextlib.suppress(Unlinked), reader(segments[-1]) as connection:
                (last,) = connection.execute("SELECT max(offset) FROM batches").fetchone()
                return first_offset(segments[-1]) if last is None else int(last) + 1
        return 0

    def trim(self, partition: str, below: int, seal: bool = False) -> int:
        """Forget segments that hold nothing else. Only the writer may: while another process writes, nothing goes yet.

        A partition that nobody writes is held no longer than this takes, or a drain that goes on would keep it from the next.
        """
        with self._lock:
            mine = self._writers.get(partition)
        if mine is not None:
            return mine.trim(below, seal)
        if self.start(partition) >= below:
            return 0
        with self._lock:  # or another thread might be told that somebody else writes it
            try:
                writer = Writer(self._folder(partition))
            except ConflictError:
                return 0
            try:
                return writer.trim(below, seal)
            finally:
                writer.close()

    def size_bytes(self, partition: str) -> int:
        """Bytes that a partition takes on the disk."""
        total = 0
        for path in (self.folder / partition).iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def start(self, partition: str) -> int:
        """Offset of the first batch that is still there; `end` when none is."""
        segments = self._segments(partition)
        return first_offset(segments[0]) if segments else 0

    def partitions(self) -> list[str]:
        """Names of all partitions that exist."""
        if not self.folder.is_dir():
            return []
        names = os.listdir(self.folder)
        if old := next((name for name in names if name.endswith(SUFFIX)), None):
            raise LogError(
                "the log was written by an older version of gyral",
                where=str(self.folder / old),
                hint="if that version's `gyral ingest` committed it to the lake, remove it with its `-wal` and `-shm`",
            )
        return sorted(name for name in names if (self.folder / name).is_dir())

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

    def _folder(self, partition: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", partition):
            raise ValueError(f"partition names are letters, digits, - and _: {partition!r}")
        return self.folder / partition

    def _segments(self, partition: str) -> list[Path]:
        return segments_of(self._folder(partition))

    def _segment_with(self, partition: str, offset: int) -> tuple[Path, Path | None] | None:
        """The segment that holds an offset, or will when it comes, and the one after it; None when there is no segment."""
        later = None
        for path in reversed(self._segments(partition)):
            if first_offset(path) <= offset:
                return path, later
            later = path
        if later is not None:
            raise _gone(later, offset, first_offset(later))
        return None

    def _writer(self, partition: str) -> Writer:
        with self._lock:
            if partition not in self._writers:
                self._writers[partition] = Writer(self._folder(partition))
            return self._writers[partition]


def _gone(path: Path, offset: int, first: int) -> Gone:
    return Gone(
        f"batches {offset:,} to {first - 1:,} of the log partition `{path.parent.name}` are gone",
        where=str(path.parent),
        why="they were trimmed after the lake had them",
        hint="the lake is older than the log: put the newer lake back, or remove this folder to go on without them",
    )


def _missing(path: Path, offset: int, following: int) -> Gone:
    return Gone(
        f"batches {offset:,} to {following - 1:,} of the log partition `{path.parent.name}` are missing",
        where=str(path.parent),
        why="a segment between two others was removed or damaged",
        hint="put the file back from a copy",
    )
