"""What happened to each request, in arrays: a million of them are 50 MB and no objects that a collector has to visit."""

from __future__ import annotations

import math
from array import array
from typing import Final

OPEN, OK, REFUSED, TIMEOUT, RESET, UNREACHED, MALFORMED, CUT = range(8)
"""Not answered yet; 2xx; another status; no whole answer in time; the connection was lost; none could be made; what came is no
HTTP; a stream that told of an error or lacks its end."""
NAMES: Final = ("open", "ok", "refused", "timeout", "reset", "unreached", "malformed", "cut")


class Record:
    """One row a request; seconds from the start of the run, nan: did not happen.

    `reached_s` is when the generator came to it, `sent_s` when it was written to a connection, `first_s` when its first token
    came, `done_s` when its outcome was known. `gaps_s` are the times between tokens of all streams.
    """

    def __init__(self, count: int) -> None:
        empty = array("d", [math.nan])
        self.reached_s, self.sent_s, self.first_s, self.done_s = (empty * count for _ in range(4))
        self.status = array("H", [0]) * count
        self.outcome = bytearray(count)
        self.tokens = array("I", [0]) * count
        self.gaps_s = array("d")
        self.num_connections = 0
        self.most_open = 0
        self.cpu_s = 0.0
        """CPU time that the generator took itself."""

    def __len__(self) -> int:
        return len(self.outcome)
