"""How frames travel between a client and its shards; everything above is the same wherever shards live.

A transport knows the shards of one address and makes a channel to each; a channel takes frames along and says what has come.
Neither blocks: the client waits in one place (`Transport.wait`) for all its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gyral.params.wire import Arrays, FromShard, Head

Frame = tuple[FromShard, Arrays]


class Channel(Protocol):
    """One link to one shard; when it raises `LinkLost` it is done, and another is made."""

    def send(self, head: Head, arrays: Arrays = ()) -> None:
        """Take a frame along; the arrays must stay as they are until it is answered."""

    def pump(self) -> list[Frame]:
        """Move what can be moved now; the frames that came."""

    def close(self) -> None:
        """May be called twice."""


class Transport(Protocol):
    """Shards of one address.

    Attributes
    ----------
    names : what to call each shard in errors.
    is_copying : whether arrays are copied on their way.
    """

    names: list[str]
    is_copying: bool

    def connect(self, shard: int) -> Channel:
        """A new link.

        Raises
        ------
        LinkLost : it does not answer now; later it may.
        RankError : it will not come back.
        """

    def wait(self, channels: Sequence[Channel], timeout_s: float) -> None:
        """Return when one of them may have something, or after this time."""

    def close(self) -> None:
        """End what this process started; the links are closed already."""
