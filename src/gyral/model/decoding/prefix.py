"""Which pages hold the beginnings of texts: a radix tree whose edges are pages of 16 tokens.

A node is a page that is full; its path from the root is the whole text before it, so a hit is exact and needs no hash. The
root is chosen by whose text it is and by the version of the weights: keys and values of other weights are never found. The
tree holds its pages like a sequence does. When pages run out, leaves that nobody else holds go, longest unused first; a page
in use can not go, nor can one with pages after it.

Of a page that agrees in its first tokens only, the caller may hold the page and write on behind them: it is copied then.

Source: Zheng et al. 2024 (SGLang, RadixAttention), section 3.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from gyral.model.decoding.pages import Pages


class Node:
    """A full page; the root has none."""

    __slots__ = ("children", "key", "page", "parent", "used")

    def __init__(self, page: int, parent: Node | None, key: Hashable) -> None:
        self.page, self.parent, self.key = page, parent, key
        self.children: dict[Hashable, Node] = {}
        self.used = 0


class Prefixes:
    """The trees of all versions, over one memory of pages.

    Attributes
    ----------
    num : pages that the trees hold.
    """

    def __init__(self, pages: Pages) -> None:
        self.num = 0
        self._pages = pages
        self._roots: dict[Hashable, Node] = {}
        self._clock = 0

    def root(self, key: Hashable) -> Node:
        """Where texts of a version (and of whoever shares them) begin."""
        return self._roots.setdefault(key, Node(-1, None, key))

    def child(self, node: Node, block: Sequence[int]) -> Node | None:
        """The page that follows, if these 16 tokens were seen there; it counts as used now."""
        found = node.children.get(tuple(block))
        if found is not None:
            self._touch(found)
        return found

    def partial(self, node: Node, tokens: Sequence[int]) -> tuple[int, int]:
        """The page whose first tokens agree most with these, and how many do; 0: none does."""
        best, most = -1, 0
        for key, child in node.children.items():
            agree = 0
            for one, other in zip(key, tokens, strict=False):  # type: ignore[call-overload]
                if one != other:
                    break
                agree += 1
            if agree > most:
                best, most = child.page, agree
                found = child
        if most:
            self._touch(found)
        return best, most

    def add(self, node: Node, block: Sequence[int], page: int) -> Node:
        """A page that is full now; if the same was there already, that one is given instead."""
        key = tuple(block)
        found = node.children.get(key)
        if found is None:
            found = node.children[key] = Node(self._pages.hold(page), node, key)
            self.num += 1
        self._touch(found)
        return found

    def evict(self, num: int) -> int:
        """Free that many pages, or as many as can be; how many."""
        freed = 0
        while freed < num:
            leaves = [node for node in self._nodes() if not node.children and self._pages.holders[node.page] == 1]
            if not leaves:
                break
            leaves.sort(key=lambda node: node.used)
            for node in leaves[: num - freed]:
                self._drop(node)
                freed += 1
        return freed

    def clear(self) -> None:
        """Forget all; pages that sequences hold stay theirs."""
        for node in list(self._nodes()):
            self._pages.drop(node.page)
        self._roots.clear()
        self.num = 0

    def _touch(self, node: Node) -> None:
        self._clock += 1
        node.used = self._clock

    def _nodes(self) -> list[Node]:
        found: list[Node] = []
        open_ = list(self._roots.values())
        while open_:
            node = open_.pop()
            open_.extend(node.children.values())
            if node.parent is not None:
                found.append(node)
        return found

    def _drop(self, node: Node) -> None:
        parent = node.parent
        if parent is not None:
            del parent.children[node.key]
            if parent.parent is None and not parent.children:
                self._roots.pop(parent.key, None)
        self._pages.drop(node.page)
        self.num -= 1
