"""The strategy `elastic`: data parallel over whoever is there, by an own reduction whose order of additions can be fixed.

The global batch stays the same whoever takes part: it is cut into leaves (`tree`), members compute neighbouring leaves, and a
step that fails is done again by those who are left (`quorum` holds the argument why each counts once). With `leaves = 8` the
leaves are fixed: gradients are computed leaf by leaf in fixed shapes by one thread and added in the order of the tree, so 1, 2,
3 or 4 members, and any that die, end in the same weights, bit for bit. With `leaves = 0` each member's part is one leaf, which
costs less when a leaf would be a few rows; losses then differ by rounding.

A task that compares rows with each other gets those of all leaves (`rows`), in the order of the global batch: every leaf is
then computed up to where it needs them before any goes on (`turns`).

Gradients are views of one flat vector from the start (`flat`), so a reduction copies nothing: leaf vectors are sent from where
backward has left them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from gyral.engine.links import Link, LinkLost
from gyral.engine.listening import Listener
from gyral.errors import ConfigError
from gyral.faults import fail_point
from gyral.model.task import Batch, Sums, Task, alone
from gyral.train.elastic import heal
from gyral.train.elastic.flat import Flat, Layout
from gyral.train.elastic.membership import Membership
from gyral.train.elastic.messages import Epoch, Stand
from gyral.train.elastic.peers import Peers, Subtree, added, added_sums
from gyral.train.elastic.rows import Rows
from gyral.train.elastic.tree import Node, Pile, share
from gyral.train.elastic.turns import Turns
from gyral.train.loader import Part
from gyral.train.parallel.mesh import refuse_batch_norm
from gyral.train.parallel.strategy import Alone, Totals, accumulate
from gyral.train.parallel.wire import Wire


@dataclass(frozen=True)
class LeafPart(Part):
    """Neighbouring leaves of a batch; remembers how many micro-batches each was cut into."""

    leaves: int = 1
    num_batches: list[tuple[int, int]] = field(default_factory=list)

    def cuts(self, num_rows: int, size: int) -> list[tuple[int, int]]:
        """Each leaf by itself."""
        self.num_batches.clear()
        found: list[tuple[int, int]] = []
        for leaf in range(*share(self.index, self.count, self.leaves)):
            own = Part(leaf, self.leaves).cuts(num_rows, size)
            self.num_batches.append((leaf, len(own)))
            found += own
        return found


class Elastic(Alone):
    """Members that come and go.

    Parameters
    ----------
    leaves : that the batch is cut into, whoever takes part; 0: one a member.
    wire : how gradients are sent, `f32` or `bf16`; a batch has no fixed leaves with the latter.
    """

    def __init__(self, membership: Membership, listener: Listener, leaves: int = 0, wire: Wire = "f32") -> None:
        self.membership, self.listener, self.leaves, self.wire = membership, listener, leaves, wire
        self.is_first, self.num_ranks = False, 1
        self._peers: Peers | None = None
        self._earlier: dict[tuple[int, str], Link] = {}
        self._stand = Stand()
        self._trouble, self._digest, self._is_meeting, self._has_begun = "", "", False, False
        self._part = LeafPart(0, 1)
        self._own: list[Subtree] = []
        self._lent: list[Flat] = []
        self._free: list[Flat] = []

    def place(self, task: Task, model: nn.Module) -> nn.Module:
        """Lay the gradients out as one vector.

        Raises
        ------
        ConfigError : weights are not on the CPU, or rows of other members would change what a layer gives.
        """
        super().place(task, model)
        refuse_batch_norm(model)
        self._layout = Layout([param for param in model.parameters() if param.requires_grad])
        self._total = Flat(self._layout)
        if self.leaves:
            torch.set_num_threads(1)
        return model

    def follow(self, optimizer: Any, position: Any, parts: Mapping[str, Any] = {}) -> None:
        """What else makes a member's state."""
        self._optimizer, self._position, self._parts = optimizer, position, dict(parts)

    def settle(self, step: int) -> Part:
        """Go on with the epoch that stands, or stand at this boundary until the next one begins."""
        if not self._has_begun:
            self._has_begun = True
            self._stand = Stand(step, 0)
            self.membership.begin(self.listener)
        while self._peers is None or self._trouble or self._is_meeting or self.membership.is_broken():
            self._trouble = self._meet(self._trouble or self.membership.is_broken())
        index, count = self._peers.index, self._peers.count
        self.is_first, self.num_ranks = index == 0, count
        self._part = LeafPart(index, count, self.leaves or count)
        return self._part

    def forward_backward(self, batches: Sequence[Batch]) -> Sums:
        """Gradients leaf by leaf; the sums are of all of ours."""
        pile: Pile[Flat] = Pile(self._part.leaves, self._merged)
        sums: Pile[dict[str, float]] = Pile(self._part.leaves, added_sums)
        last = Sums(torch.zeros(()), torch.zeros(()))
        start, leaves = 0, []
        for leaf, num in self._part.num_batches:
            leaves.append((leaf, batches[start : start + num]))
            start += num
        compute = self._together if self.task.cross_sample else self._one_by_one
        try:
            for leaf, flat, last in compute(leaves):
                flat.widen()
                pile.push(Node(0, leaf), flat)
                sums.push(Node(0, leaf), _named(last))
        except LinkLost as error:
            self._trouble = f"{error.what}: {error.why}"
        self._own = [
            Subtree(node, flat.vector.numpy(), values)
            for node, flat, values in zip(pile.nodes, pile.values, sums.values, strict=True)
        ]
        self._lent = pile.values
        return last

    def _one_by_one(self, leaves: Sequence[tuple[int, Sequence[Batch]]]) -> Iterator[tuple[int, Flat, Sums]]:
        """Leaves that know nothing of each other."""
        for leaf, batches in leaves:
            flat = self._begun()
            flat.begin()
            yield leaf, flat, accumulate(self.task, self.model, batches, alone, self.autocast)

    def _together(self, leaves: Sequence[tuple[int, Sequence[Batch]]]) -> Iterator[tuple[int, Flat, Sums]]:
        """Leaves whose rows are compared with those of all others, of all members."""
        if self._peers is None:
            raise LinkLost("there are no members", [])
        if empty := [leaf for leaf, batches in leaves if not batches]:
            what = f"a batch has no row for part {empty[0]} of {self._part.leaves}, and `{self.task.name}` compares rows"
            raise ConfigError(what, where="train.batch", hint="raise `train.batch`")
        flats = [self._begun() for _ in leaves]
        for flat in flats:
            flat.begin()

        def computed(batches: Sequence[Batch]) -> Sums:
            return accumulate(self.task, self.model, batches, rows.gather, self.autocast)

        turns = None
        if len(leaves) > 1:
            turns = Turns([partial(computed, batches) for _, batches in leaves], lambda number: flats[number].point())
        rows = Rows(self._peers, self._position.step, self._part.leaves, turns)
        try:
            found = turns.run() if turns is not None else [computed(batches) for _, batches in leaves]
        except BaseException:
            self._free += flats
            raise
        yield from zip((leaf for leaf, _ in leaves), flats, found, strict=True)

    def _begun(self) -> Flat:
        return self._free.pop() if self._free else Flat(self._layout)

    def reduce(self, sums: Sums) -> Totals | None:
        """Add up over all members; None when one was lost."""
        step = self._position.step
        try:
            if self._peers is None or self._trouble:
                return None
            is_pending, vector = self.membership.is_pending(), self._total.vector
            total = self._peers.reduce(step, self._own, self._part.leaves, vector.numpy(), self._digest, is_pending)
        except LinkLost as error:
            self._trouble = f"{error.what}: {error.why}"
            return None
        finally:
            self._free += self._lent
            self._lent = []
        self._is_meeting = total.is_meeting
        named = dict(total.sums)
        loss, weight = named.pop("", 0.0), named.pop(" ", 0.0)
        if weight > 0:
            vector.div_(weight)
        self._total.give()
        by = weight or 1.0
        return Totals(loss / by, weight, {name: value / by for name, value in named.items()})

    def clip(self, limit: float) -> float:
        """As alone, and remember the norm: all must have found the same."""
        norm = super().clip(limit)
        self._digest = norm.hex()
        return norm

    def commit(self, step: int) -> None:
        """The step is done: that is where we stand."""
        self._stand = Stand(step + 1, self._peers.epoch.number if self._peers is not None else 0)
        fail_point("elastic.committed")

    def close(self) -> None:
        """End the links."""
        self._part_from_peers()
        self.listener.close()

    def _part_from_peers(self) -> None:
        if self._peers is not None:
            self._peers.close()
            self._peers = None

    def _meet(self, why: str) -> str:
        """Settle, connect, heal; what went wrong."""
        self._is_meeting = False
        number = self._peers.epoch.number if self._peers is not None else 0
        if why:  # so that all hear of it
            self._part_from_peers()
        epoch = self.membership.settle(self._stand, number, why)
        if self._peers is not None and epoch.number == number:
            return ""
        self._part_from_peers()
        try:
            self._peers = Peers(
                epoch, self.membership.own, self.listener, self.membership.secret, timeout_s=self.membership.timeout_s,
                is_over=self.membership.is_broken, on_wait=self._on_wait, earlier=self._earlier,
                is_narrow=self.wire == "bf16",
            )  # fmt: skip
            self._heal(epoch, self._peers)
        except LinkLost as error:
            return f"{error.what}: {error.why}"
        return ""

    def _heal(self, epoch: Epoch, peers: Peers) -> None:
        own, timeout_s = self.membership.own, self.membership.timeout_s
        names = {peer.id: peer.name for peer in epoch.members}
        if own == epoch.source and epoch.healed:
            state = {
                "model": dict(self.model.state_dict()), "optimizer": self._optimizer.state(), "digest": self._digest,
                "position": vars(self._position), "parts": {name: part.state() for name, part in self._parts.items()},
            }  # fmt: skip
            for id in epoch.healed:
                heal.give(peers.link(id), state, timeout_s=timeout_s, is_over=lambda id=id: self._tick(names[id]))  # type: ignore[misc]
        elif own in epoch.healed:
            state = heal.take(peers.link(epoch.source), timeout_s=timeout_s, is_over=lambda: self._tick(names[epoch.source]))
            self.model.load_state_dict(state["model"])
            self._optimizer.load(state["optimizer"])
            self._digest = state["digest"]
            vars(self._position).update(state["position"])
            for name, part in self._parts.items():
                heal.fill(part, state["parts"][name])
            self._stand = epoch.stand
        self._on_wait([])

    def _tick(self, name: str) -> str:
        self._on_wait([name])
        return self.membership.is_broken()

    def _on_wait(self, names: Sequence[str]) -> None:
        self.membership.waits(names, self._peers.moved if self._peers is not None else 0)

    def _merged(self, left: Flat, right: Flat) -> Flat:
        added(left.vector.numpy(), right.vector.numpy())
        self._free.append(right)
        return left


def _named(sums: Sums) -> dict[str, float]:
    """Sums by name; the loss is nameless and the weight a blank, which no metric is called."""
    return {"": float(sums.loss), " ": float(sums.weight), **{name: float(value) for name, value in sums.metrics.items()}}
