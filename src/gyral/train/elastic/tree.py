"""The order of additions: a fixed binary tree over the leaves of a batch, whoever computes which.

Addition of floats depends on its order, so weights are the same for any number of members only if the order is. The global
batch is cut into V leaves; node (k, i) of the tree covers leaves [i 2^k, (i + 1) 2^k) that exist, and its value is that of its
left child plus that of its right one. Who owns leaves [a, b) adds up the largest subtrees that lie within (`Pile`: a binary
counter, at most 2 log2 V of them), sends those, and whoever gets all of them in order adds the rest the same way. All-reduce
instead adds in an order that depends on who takes part: 1, 2 and 4 workers then end in three different models.

**Source**: the pairwise summation of Higham 1993, which also halves the number of digits lost to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class Node(NamedTuple):
    """A subtree: leaves [place 2^level, (place + 1) 2^level)."""

    level: int
    place: int


class Pile(Generic[Value]):
    """Values of neighbouring subtrees, pushed from left to right and added as soon as two are siblings.

    Parameters
    ----------
    leaves : of the whole tree.
    add : the sum of a left and a right value; may be the left one, changed.
    """

    def __init__(self, leaves: int, add: Callable[[Value, Value], Value]) -> None:
        self.leaves, self._add = leaves, add
        self.nodes: list[Node] = []
        self.values: list[Value] = []

    def push(self, node: Node, value: Value) -> None:
        """Put the next subtree to the right of those that are there.

        Raises
        ------
        ValueError : it does not begin where the last one ended.
        """
        node = self._lifted(node)
        if self.nodes and end(self.nodes[-1], self.leaves) != node.place << node.level:
            raise ValueError(f"{node} does not follow {self.nodes[-1]} in a tree of {self.leaves} leaves")
        self.nodes.append(node)
        self.values.append(value)
        while len(self.nodes) > 1 and are_siblings(self.nodes[-2], self.nodes[-1]):
            right = self.values.pop()
            self.nodes.pop()
            self.values[-1] = self._add(self.values[-1], right)
            left = self.nodes[-1]
            self.nodes[-1] = self._lifted(Node(left.level + 1, left.place >> 1))

    @property
    def root(self) -> Value:
        """The value of the whole tree.

        Raises
        ------
        ValueError : leaves are missing.
        """
        if len(self.nodes) != 1 or self.nodes[0].place or end(self.nodes[0], self.leaves) != self.leaves:
            raise ValueError(f"the tree of {self.leaves} leaves is not whole: {self.nodes}")
        return self.values[0]

    def _lifted(self, node: Node) -> Node:
        """The highest node of the same leaves: a left child without a sibling is as good as its parent."""
        while node.level < depth(self.leaves) and node.place % 2 == 0 and (node.place + 1) << node.level >= self.leaves:
            node = Node(node.level + 1, node.place >> 1)
        return node


def depth(leaves: int) -> int:
    """Level of the root."""
    return max(leaves - 1, 0).bit_length()


def end(node: Node, leaves: int) -> int:
    """The leaf after its last one."""
    return min((node.place + 1) << node.level, leaves)


def are_siblings(left: Node, right: Node) -> bool:
    """Whether two neighbours are the children of one node."""
    return left.level == right.level and left.place % 2 == 0 and right.place == left.place + 1


def share(index: int, count: int, leaves: int) -> tuple[int, int]:
    """Leaves [first, last) of the `index`-th of `count` members."""
    return index * leaves // count, (index + 1) * leaves // count
