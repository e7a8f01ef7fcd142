"""The links between the members of one epoch, and the two exchanges over them that add up a step.

Reduce-scatter and all-gather without a ring: each of W members owns a W-th of the vector, gets that chunk of every subtree of
the others, adds them in the order of the tree, and sends the sum to all. Each sends 2 (W − 1) / W of the vector's bytes, as a
ring does, in two rounds instead of 2 (W − 1); with more than one subtree a member (a number of members that does not divide
the leaves) the first half is as many times that.

With the wire `bf16` vectors are rounded as they are sent, in both halves, and added in their own type: half the bytes. Whoever
adds a chunk up takes the rounded sum too, so members stay equal to the last bit; but what is rounded depends on who takes part.

Links are made anew for each epoch: nothing of an earlier one can be in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from gyral.engine.links import Link, LinkLost, exchange
from gyral.engine.listening import HANDSHAKE_S, Listener, connect
from gyral.faults import fail_point
from gyral.train.elastic.messages import Epoch
from gyral.train.elastic.tree import Node, Pile

POLL_S = 0.02


class Subtree(NamedTuple):
    """A sum over some leaves: a vector [P], and the task's sums by name."""

    node: Node
    flat: np.ndarray
    sums: dict[str, float]


class _Head(msgspec.Struct, array_like=True, frozen=True):
    """What a member says with its chunks: their subtrees, and what all must hear in the same step."""

    epoch: int
    step: int
    digest: str
    is_meeting: bool
    subtrees: list[tuple[int, int, dict[str, float]]]


class Total(NamedTuple):
    """The sum over all leaves: sums by name, and whether anybody asked all to meet at the next boundary."""

    sums: dict[str, float]
    is_meeting: bool


class Peers:
    """The members of an epoch as one of them reaches the others.

    Parameters
    ----------
    is_over : a reason for which waiting makes no sense any more.
    on_wait : told the names of those that are waited for; none: the wait is over.
    is_narrow : vectors travel as bf16.
    """

    def __init__(
        self, epoch: Epoch, own: str, listener: Listener, secret: bytes, *, timeout_s: float,
        is_over: Callable[[], str], on_wait: Callable[[Sequence[str]], None], earlier: dict[tuple[int, str], Link],
        is_narrow: bool = False,
    ) -> None:  # fmt: skip
        self.epoch, self.timeout_s, self._is_over, self._on_wait = epoch, timeout_s, is_over, on_wait
        self._is_narrow = is_narrow
        self.index = next(at for at, peer in enumerate(epoch.members) if peer.id == own)
        self.count = len(epoch.members)
        self._links: dict[int, Link] = {}
        self._closed_moved = 0
        self._buffers: dict[tuple[int, int], np.ndarray] = {}
        try:
            self._join(own, listener, secret, earlier)
        except BaseException:
            self.close()
            raise
        finally:
            on_wait([])

    @property
    def moved(self) -> int:
        """Bytes sent and received."""
        return self._closed_moved + sum(link.moved for link in list(self._links.values()))

    def links(self) -> list[tuple[int, Link]]:
        """Places of the other members, and the links to them."""
        return list(self._links.items())

    def link(self, id: str) -> Link:
        """The link to a member."""
        return next(self._links[at] for at, peer in enumerate(self.epoch.members) if peer.id == id)

    def close(self) -> None:
        """End all links; may be called twice."""
        self._closed_moved = self.moved
        for link in self._links.values():
            link.close()
        self._links = {}

    def reduce(
        self, step: int, subtrees: Sequence[Subtree], leaves: int, total: np.ndarray, digest: str = "", is_meeting: bool = False
    ) -> Total:
        """Add up a step's subtrees over all members.

        Parameters
        ----------
        subtrees : ours, from left to right; their vectors are used up.
        total : [P], gets the sum.
        digest : what all must agree on, such as the norm of the step before.
        is_meeting : we want all to meet at the next boundary.

        Raises
        ------
        LinkLost : somebody was lost; `total` holds anything.
        """
        cuts = [at * len(total) // self.count for at in range(self.count + 1)]
        own = slice(cuts[self.index], cuts[self.index + 1])
        said = _Head(
            self.epoch.number, step, digest, is_meeting, [(*each.node, each.sums) for each in subtrees]
        )  # fmt: skip
        head = msgspec.msgpack.encode(said)
        frames = {
            link: (head, *(self._sent(each.flat[cuts[at] : cuts[at + 1]]) for each in subtrees)) for at, link in self.links()
        }
        heads: dict[Link, _Head] = {}
        rows: dict[Link, np.ndarray] = {}

        def scatter_into(link: Link, head: bytes, size: int) -> Sequence[Any]:
            heard = msgspec.msgpack.decode(head, type=_Head)
            if (heard.epoch, heard.step, heard.digest) != (said.epoch, said.step, said.digest):
                raise LinkLost(
                    f"{link.peer} is at another place", [link.peer], why=f"{heard.step} {heard.digest}, not {step} {digest}"
                )
            heads[link] = heard
            rows[link] = self._buffer(len(heads), (len(heard.subtrees), own.stop - own.start), total.dtype)
            return [rows[link]]

        self.exchange(frames, scatter_into)
        fail_point("elastic.scattered")
        parts = [(Node(level, index), self._got(rows[link][at], total.dtype), sums) for link, heard in heads.items()
                 for at, (level, index, sums) in enumerate(heard.subtrees)]  # fmt: skip
        parts += [(each.node, each.flat[own], each.sums) for each in subtrees]
        chunk, sums = _added_up(parts, leaves)
        sent = self._sent(chunk)
        spans = {link: slice(cuts[at], cuts[at + 1]) for at, link in self.links()}
        chunks = {link: total[span] for link, span in spans.items()}
        if self._is_narrow:
            chunks = {link: self._buffer(-at, (len(chunks[link]),), total.dtype) for at, link in self.links()}
        self.exchange({link: (head[:0], sent) for link in chunks}, lambda link, _, __: [chunks[link]])
        fail_point("elastic.gathering")
        if self._is_narrow:
            for link, span in spans.items():
                total[span] = self._got(chunks[link], total.dtype)
            chunk = self._got(sent, total.dtype) if self._links else chunk
        total[own] = chunk
        return Total(sums, is_meeting or any(heard.is_meeting for heard in heads.values()))

    def exchange(self, frames: dict[Link, Any], into: Callable[[Link, bytes, int], Sequence[Any]]) -> None:
        """One frame to and from each of the others; as `links.exchange`."""
        if not frames:
            return
        try:
            exchange(frames, into, timeout_s=self.timeout_s, is_over=self._is_over, on_wait=self._on_wait)
        finally:
            self._on_wait([])

    def _sent(self, values: np.ndarray) -> np.ndarray:
        """As they travel."""
        return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy() if self._is_narrow else values

    def _got(self, values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """The way back."""
        if not self._is_narrow:
            return values
        return torch.from_numpy(values).view(torch.bfloat16).float().numpy().astype(dtype, copy=False)

    def _buffer(self, key: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Memory of an earlier step, of the type that travels."""
        found = self._buffers.get((key, len(shape)))
        if found is None or found.shape != shape:
            found = self._buffers[key, len(shape)] = np.empty(shape, np.dtype(np.int16) if self._is_narrow else dtype)
        return found

    def _join(self, own: str, listener: Listener, secret: bytes, earlier: dict[tuple[int, str], Link]) -> None:
        """Later members connect to earlier ones; links of a newer epoch that come meanwhile stay in `earlier`."""
        end = time.monotonic() + self.timeout_s
        for at, peer in enumerate(self.epoch.members[: self.index]):
            self._on_wait([peer.name])
            hello = msgspec.msgpack.encode((self.epoch.number, own))
            timeout_s = max(min(HANDSHAKE_S, end - time.monotonic()), 0.1)
            self._links[at] = connect(
                (peer.host, peer.port), secret, hello, peer=peer.name, timeout_s=timeout_s, is_over=self._is_over
            )
        expected = {peer.id: at for at, peer in enumerate(self.epoch.members) if at > self.index}
        while expected:
            for key in [key for key in earlier if key[0] <= self.epoch.number]:
                link = earlier.pop(key)
                if key[0] == self.epoch.number and key[1] in expected:
                    at = expected.pop(key[1])
                    link.peer = self.epoch.members[at].name
                    self._links[at] = link
                else:
                    link.close()
            if not expected:
                break
            missing = [self.epoch.members[at].name for at in expected.values()]
            self._on_wait(missing)
            if reason := self._is_over():
                raise LinkLost("an epoch was given up before it began", missing, why=reason)
            if time.monotonic() > end:
                raise LinkLost(f"waited {self.timeout_s:g} s for {', '.join(missing)}", missing, why="no connection came")
            if (link_or_none := listener.take(POLL_S)) is not None:
                number, id = msgspec.msgpack.decode(link_or_none.hello, type=tuple[int, str])
                earlier[number, id] = link_or_none


def _added_up(parts: list[tuple[Node, np.ndarray, dict[str, float]]], leaves: int) -> tuple[np.ndarray, dict[str, float]]:
    """Values of subtrees that are the whole tree together, in its order; vectors are used up."""
    chunks: Pile[np.ndarray] = Pile(leaves, added)
    sums: Pile[dict[str, float]] = Pile(leaves, added_sums)
    for node, flat, own in sorted(parts, key=lambda part: part[0].place << part[0].level):
        chunks.push(node, flat)
        sums.push(node, own)
    return chunks.root, sums.root


def added(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The right one added to the left one, in its memory."""
    return np.add(left, right, out=left)


def added_sums(left: dict[str, float], right: dict[str, float]) -> dict[str, float]:
    """Both by name; what one lacks is nothing."""
    return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in left | right}
