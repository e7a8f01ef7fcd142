"""How much a client may send and how long it may take: every size and every wait has an end.

A wait ends on time, give or take a quarter of the shortest one, because one timer looks after all connections: a timer of its
own for each request costs about as much as answering it.
"""

from __future__ import annotations

import msgspec

KIB = 1 << 10


class Limits(msgspec.Struct, frozen=True):
    """What one connection may cost. Sizes in bytes, times in seconds."""

    max_target_bytes: int = 8 * KIB
    """Of the request line's target; beyond: 414."""
    max_head_bytes: int = 32 * KIB
    """Of target and headers together; beyond: 431."""
    max_headers: int = 100
    """Beyond: 431."""
    max_body_bytes: int = 1 << 20
    """Of a request to a fast handler; beyond: 413. Applications read their bodies as they come and set their own limit."""
    max_waiting: int = 16
    """Pipelined requests that wait for their turn; beyond, the connection is not read, and the client waits."""
    stream_bytes: int = 64 * KIB
    """Of a body that an application has not read yet; beyond, the connection is not read."""
    max_held_bytes: int = 256 << 20
    """Of bodies of all connections whose requests are not answered yet; beyond, who sends slowest gets 503."""
    max_connections: int = 50_000
    """Beyond, or beyond three quarters of the files that this process may open: 503 and closed."""
    head_timeout_s: float = 10.0
    """From the first byte of a head to its last; beyond: 408."""
    body_timeout_s: float = 30.0
    """For each 64 KiB of a body, so the slowest that is taken is 2 KiB/s; beyond: 408."""
    idle_timeout_s: float = 75.0
    """Between requests; beyond, the connection is closed without a word."""
    write_timeout_s: float = 30.0
    """For a client that does not read to take what fills the buffer; beyond, it is cut off."""
    linger_s: float = 2.0
    """How long what a refused client still sends is read away: closing with bytes unread resets the connection, and the reset
    can destroy the answer before the client reads it."""

    def max_told(self) -> int:
        """Connections beyond the most allowed that are still told so; more are cut off."""
        return min(1_000, 1 + self.max_connections // 8)

    def tick_s(self) -> float:
        """How often deadlines are looked at."""
        shortest = min(self.head_timeout_s, self.body_timeout_s, self.idle_timeout_s, self.write_timeout_s, self.linger_s)
        return min(0.5, shortest / 4)
