"""A client's connection, from the shard's side: what it has said of itself, and the numbers of its frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gyral.params import wire
from gyral.params.wire import Arrays, Head


class Session:
    """One client's connection, from the shard's side; a channel says how frames go."""

    worker, epoch, coding = -1, -1, "f32"
    is_known, is_closed = False, False
    expected, sent = 0, 0

    def put(self, head: Head, arrays: Arrays) -> None:
        """Take a frame along; must not block."""
        raise NotImplementedError

    def room(self, head: wire.Pull) -> np.ndarray | None:
        """Where the rows of a pull would best be, float32 [K, D]."""
        return None

    def close(self) -> None:
        """End it; what was put still goes out. May be called twice."""
        self.is_closed = True

    def say(self, make: Callable[[int], Head], arrays: Arrays = ()) -> None:
        """Number a frame and put it."""
        if not self.is_closed:
            head = make(self.sent)
            self.sent += 1
            self.put(head, arrays)
