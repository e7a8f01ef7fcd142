"""Rows of all members for a task that compares them with each other: the `gather` of the strategy `elastic`.

Forward: each member sends the rows of its leaves to all; the matrix is in the order of the global batch, the same bits for
whoever computes which leaf. Backward: each leaf's loss says something of every row. Member m gets what all leaves say of *its*
rows, each member's subtrees summed, and adds those in the order of the tree, as a step's gradients are added (`tree`): so
gradients too are the same bits for any members. W members send (W − 1) / W of the matrix forward and, with more than one
subtree a member, as many times that backward.

bf16 rows travel as they are; their gradients are added in f32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from gyral.engine.links import Link, LinkLost
from gyral.faults import fail_point
from gyral.train.elastic.peers import Peers
from gyral.train.elastic.tree import Node, Pile, share
from gyral.train.elastic.turns import Turns


class _Head(msgspec.Struct, array_like=True, frozen=True):
    """Which exchange this is, and what is sent: `dtype` and `shape` of a row, rows of each leaf or nodes of each subtree."""

    step: int
    number: int
    is_backward: bool
    dtype: str
    shape: list[int]
    parts: list[tuple[int, int]]


class Rows:
    """The gathering of one attempt at one step.

    Parameters
    ----------
    leaves : of the global batch.
    turns : of our leaves, where they are several; None: there is one.
    """

    def __init__(self, peers: Peers, step: int, leaves: int, turns: Turns[Any] | None = None) -> None:
        self._peers, self._step, self._leaves, self._turns = peers, step, leaves, turns
        self._own = range(*share(peers.index, peers.count, leaves))
        self._company = [at for at in range(peers.count) if len(range(*share(at, peers.count, leaves)))]
        """Members that have a leaf."""
        self._links = [(at, link) for at, link in peers.links() if at in self._company]
        self._num = 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all leaves for those of this one, in the order of the global batch; differentiable."""
        rows: Tensor = _Gathered.apply(tensor, self)
        return rows

    def forward(self, tensor: Tensor) -> tuple[Tensor, int, list[int]]:
        """Rows of all, the number of this exchange, and how many rows each leaf has."""
        return self._met(tensor.detach(), self._exchanged)

    def backward(self, number: int, counts: list[int], gradient: Tensor) -> Tensor:
        """What all losses say of our rows, those of all our leaves."""
        return self._met(gradient, lambda given: self._returned(number, counts, given))

    @property
    def place(self) -> int:
        """Which of our leaves asks."""
        return self._turns.number if self._turns is not None else 0

    def _met(self, value: Tensor, do: Any) -> Any:
        return self._turns.meet(value, do) if self._turns is not None else do([value])

    def own_rows(self, counts: list[int], index: int | None = None) -> slice:
        """Where the rows of a member are; None: ours."""
        first, end = share(self._peers.index if index is None else index, self._peers.count, self._leaves)
        return slice(sum(counts[:first]), sum(counts[:end]))

    def leaf_rows(self, counts: list[int], place: int) -> slice:
        """Where in our rows those of our leaf at this place are."""
        first = self._own.start
        begin = sum(counts[first : first + place])
        return slice(begin, begin + counts[first + place])

    def _exchanged(self, given: list[Tensor]) -> tuple[Tensor, int, list[int]]:
        """Give our leaves' rows to all."""
        number, self._num = self._num, self._num + 1
        kind, shape = given[0].dtype, list(given[0].shape[1:])
        parts = [(leaf, len(rows)) for leaf, rows in zip(self._own, given, strict=True)]
        said = _Head(self._step, number, False, str(kind), shape, parts)
        heard: dict[Link, tuple[_Head, Tensor]] = {}

        def into(link: Link, head: _Head) -> Sequence[Any]:
            rows = torch.empty([sum(num for _, num in head.parts), *shape], dtype=kind)
            heard[link] = head, rows
            return [_bytes(rows)]

        sent = [_bytes(rows) for rows in given]
        self._exchange({link: sent for _, link in self._links}, said, into)
        fail_point("elastic.gathered")
        pieces = {at: heard[link] for at, link in self._links}
        pieces[self._peers.index] = said, torch.cat(given)
        order = [pieces[at] for at in self._company]
        counts = [num for head, _ in order for _, num in head.parts]
        return torch.cat([rows for _, rows in order]), number, counts

    def _returned(self, number: int, counts: list[int], given: list[Tensor]) -> Tensor:
        """Give what our losses say of the others' rows, and add up what all say of ours."""
        shape = list(given[0].shape[1:])
        wide = torch.promote_types(given[0].dtype, torch.float32)
        pile: Pile[Tensor] = Pile(self._leaves, torch.add)
        for leaf, gradient in zip(self._own, given, strict=True):
            pile.push(Node(0, leaf), gradient.to(wide))
        own = self.own_rows(counts)
        said = _Head(self._step, number, True, str(wide), shape, [(node.level, node.place) for node in pile.nodes])
        parts = [(node, value[own]) for node, value in zip(pile.nodes, pile.values, strict=True)]

        def into(_: Link, head: _Head) -> Sequence[Any]:
            values = [torch.empty([own.stop - own.start, *shape], dtype=wide) for _ in head.parts]
            parts.extend((Node(*node), value) for node, value in zip(head.parts, values, strict=True))
            return [_bytes(value) for value in values]

        frames = {
            link: [_bytes(value[self.own_rows(counts, at)]) for value in pile.values] for at, link in self._links
        }  # fmt: skip
        self._exchange(frames, said, into)
        fail_point("elastic.returned")
        whole: Pile[Tensor] = Pile(self._leaves, torch.add)
        for node, value in sorted(parts, key=lambda part: part[0].place << part[0].level):
            whole.push(node, value)
        return whole.root.to(given[0].dtype)

    def _exchange(self, frames: dict[Link, list[np.ndarray]], said: _Head, into: Any) -> None:
        """Send and receive; whoever is elsewhere is not one of us."""
        encoded = msgspec.msgpack.encode(said)
        same = (said.step, said.number, said.is_backward, said.dtype, said.shape)

        def checked(link: Link, head: bytes, size: int) -> Sequence[Any]:
            try:
                heard = msgspec.msgpack.decode(head, type=_Head)
            except msgspec.MsgspecError:
                raise LinkLost(f"{link.peer} is at another place", [link.peer], why="it gives no rows") from None
            if (heard.step, heard.number, heard.is_backward, heard.dtype, heard.shape) != same:
                raise LinkLost(f"{link.peer} is at another place", [link.peer], why=f"{heard}, not {said}")
            return into(link, heard)

        self._peers.exchange({link: (encoded, *arrays) for link, arrays in frames.items()}, checked)


class _Gathered(torch.autograd.Function):
    """Rows of all; the gradient of a row is the sum of what every leaf's loss says of it."""

    @staticmethod
    def forward(context, tensor, rows):  # type: ignore[no-untyped-def]
        whole, context.number, context.counts = rows.forward(tensor)
        context.rows, context.place = rows, rows.place
        return whole.view_as(whole)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        rows = context.rows
        own = rows.backward(context.number, context.counts, gradient.contiguous())
        return own[rows.leaf_rows(context.counts, context.place)], None


def _bytes(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
