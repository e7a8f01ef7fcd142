"""The seam: `append`, `read`, `end`, `trim`, no consumer groups. Consumers own their offsets, so nobody can lose them for them.

Around the four: `submit`, the `append` that does not wait; where a partition starts; which partitions there are, taking one to
write to, and letting go.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import NamedTuple, Protocol, Self


class Entry(NamedTuple):
    """One batch as read back: its offset in the partition, its id, its bytes, and how many rows it holds."""

    offset: int
    batch_id: str
    payload: bytes
    num_rows: int


class EventLog(Protocol):
    """A durable, partitioned sequence of batches.

    Attributes
    ----------
    others_write : whether what is in it may be JSON that somebody else wrote.
    largest_bytes : how large a batch may be.
    """

    others_write: bool
    largest_bytes: int

    def append(self, partition: str, batch_id: str, payload: bytes, num_rows: int) -> int:
        """Store a batch and return its offset once it is durable; a batch id seen before returns its first offset.

        May be called from many threads, which then share one flush.

        Raises
        ------
        ConflictError : another process writes this partition.
        LogError : it was not acknowledged, and may be sent again.
        """
        return self.submit(partition, batch_id, payload, num_rows).result()

    def submit(self, partition: str, batch_id: str, payload: bytes, num_rows: int) -> Future[int]:
        """`append` that does not wait: the future has the offset once the batch is durable, or the error."""

    def read(self, partition: str, from_offset: int, max_bytes: int = 64 << 20) -> Iterator[Entry]:
        """Yield batches in order from an offset, stopping after about `max_bytes` of payload; never blocks for more.

        Raises
        ------
        LogError : the first of them were trimmed: whoever asks is older than the log.
        """

    def end(self, partition: str) -> int:
        """Offset that the next batch will get; 0 for a partition that does not exist."""

    def start(self, partition: str) -> int:
        """Offset of the first batch that is still there; `end` when none is."""

    def trim(self, partition: str, below: int, seal: bool = False) -> int:
        """Forget batches below an offset that every table has committed; return how many went.

        Parameters
        ----------
        seal : begin a new segment, where there are segments: what is in the old one then goes as soon as it may.
        """

    def size_bytes(self, partition: str) -> int:
        """Bytes that a partition takes where it is; 0 when that is not known."""

    def partitions(self) -> list[str]:
        """Names of all partitions that exist."""

    def free_partition(self, prefix: str) -> str:
        """Take a partition of this kind that nobody else writes, and keep it until `close`."""

    def close(self) -> None:
        """Finish what was appended and let go of the partitions; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
