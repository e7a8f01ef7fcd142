"""Shards in this process: frames are passed as they are, and nothing is copied.

One shard answers in the thread that asks: a call costs some microseconds more than the table's own. Several have a thread each,
so that they work at once: kernels let go of the interpreter. Other workers of the process join through `LocalTransport.joined`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from gyral.engine.links import LinkLost
from gyral.errors import RankError
from gyral.params.channels import Channel, Frame
from gyral.params.shard import Session, Shard
from gyral.params.wire import Arrays, Head


class Host:
    """Runs one shard, in a thread of its own or in those of its callers."""

    def __init__(self, shard: Shard, is_threaded: bool) -> None:
        self.shard, self._lock = shard, threading.RLock()
        self.error: RankError | None = None
        self._frames: queue.SimpleQueue[tuple[Session, Head, Arrays] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=shard.name, daemon=True) if is_threaded else None
        if self._thread is not None:
            self._thread.start()

    def submit(self, session: Session, head: Head, arrays: Arrays) -> None:
        """Hand it a frame."""
        if self._thread is not None:
            self._frames.put((session, head, arrays))
            return
        with self._lock:
            now = time.monotonic()
            self.shard.handle(session, head, arrays, now)
            self.shard.work(now)

    def work(self) -> float:
        """What a shard without a thread does in between; seconds until it wants more."""
        if self._thread is not None:
            return 1.0
        with self._lock:
            return self.shard.work(time.monotonic())

    def close(self) -> None:
        """Write what is left."""
        if self._thread is not None:
            self._frames.put(None)
            self._thread.join(timeout=60.0)
        with self._lock:
            self.shard.close()

    def _run(self) -> None:
        delay = 0.0
        try:
            while True:
                try:
                    frame = self._frames.get(timeout=max(delay, 1e-4))
                except queue.Empty:
                    delay = self.shard.work(time.monotonic())
                    continue
                if frame is None:
                    return
                self.shard.handle(*frame, time.monotonic())
                delay = self.shard.work(time.monotonic())
        except Exception as error:
            self.error = RankError(f"{self.shard.name} has ended", why=str(error) or type(error).__name__)
            for session in list(self.shard.sessions.values()):
                session.close()


class _Passed(Session):
    """A session whose frames are put in a line."""

    def __init__(self, waker: threading.Event) -> None:
        self.inbox: deque[Frame] = deque()
        self._waker = waker

    def put(self, head: Head, arrays: Arrays) -> None:
        self.inbox.append((head, arrays))  # type: ignore[arg-type]
        self._waker.set()

    def close(self) -> None:
        super().close()
        self._waker.set()


class LocalChannel:
    """To one shard of this process."""

    def __init__(self, host: Host, waker: threading.Event) -> None:
        self._host, self._session = host, _Passed(waker)

    def send(self, head: Head, arrays: Arrays = ()) -> None:
        """Take a frame along."""
        self._host.submit(self._session, head, arrays)

    def pump(self) -> list[Frame]:
        """The frames that came."""
        frames = []
        while self._session.inbox:
            frames.append(self._session.inbox.popleft())
        if not frames and self._session.is_closed:
            raise LinkLost(f"the link to {self._host.shard.name} is lost", [self._host.shard.name], why="the shard ended it")
        return frames

    def close(self) -> None:
        """May be called twice."""
        self._session.close()


class LocalTransport:
    """Shards of this process, of one worker.

    Parameters
    ----------
    make : number → the shard.
    hosts : of another worker's transport.
    """

    is_copying = False

    def __init__(self, make: Callable[[int], Shard], num: int, hosts: list[Host] | None = None) -> None:
        self._make, self._is_owner = make, hosts is None
        self.hosts = [Host(make(number), num > 1) for number in range(num)] if hosts is None else hosts
        self.refresh()
        self._waker = threading.Event()

    def joined(self) -> LocalTransport:
        """For another worker of this process, of the same shards."""
        return LocalTransport(self._make, 0, self.hosts)

    def grow(self, num: int) -> None:
        """Have `num` shards at least; those that come have a thread each."""
        for number in range(len(self.hosts), num):
            self.hosts.append(Host(self._make(number), True))
        self.refresh()

    def shrink(self, num: int) -> None:
        """They own nothing, and stay until all ends: a thread that sleeps."""

    def refresh(self) -> None:
        """Look again which shards there are."""
        self.names = [host.shard.name for host in self.hosts]

    def connect(self, shard: int) -> Channel:
        """A new link.

        Raises
        ------
        RankError : the shard's thread has ended.
        """
        if (error := self.hosts[shard].error) is not None:
            raise error
        return LocalChannel(self.hosts[shard], self._waker)

    def wait(self, channels: Sequence[Channel], timeout_s: float) -> None:
        """Until a frame came, or a shard without a thread has something to do."""
        for host in self.hosts:
            timeout_s = min(timeout_s, host.work())
        self._waker.wait(timeout_s)
        self._waker.clear()

    def close(self) -> None:
        """Write what is left."""
        if self._is_owner:
            for host in self.hosts:
                host.close()
