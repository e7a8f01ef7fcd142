"""Which pages a sequence holds: found in the tree of beginnings, taken for what comes, put into the tree when full.

Looked up before every chunk and not at arrival alone: sequences that come together with the same beginning read it once,
because the second one finds what the first has read since. A page that both read at once is kept once.
"""

from __future__ import annotations

from gyral.model.decoding.pages import Pages
from gyral.model.decoding.prefix import Prefixes
from gyral.model.decoding.sequence import Growing

_WORTH_A_COPY = 4
"""Tokens of a page that agree, below which reading them again is cheaper than copying the page."""


class Holding:
    """Pages of sequences.

    Parameters
    ----------
    prefixes : the tree of beginnings; None: nothing is shared.
    """

    def __init__(self, pages: Pages, prefixes: Prefixes | None) -> None:
        self.pages, self.prefixes, self._size = pages, prefixes, pages.size

    def look_up(self, growing: Growing) -> None:
        """Hold what others have read of its beginning; one token at least is left to read, as its logits are wanted."""
        if self.prefixes is None or growing.read != growing.shared * self._size:
            growing.cached = max(growing.cached, 0)
            return
        node = growing.node or self.prefixes.root(growing.root)
        before = growing.read
        while growing.left > self._size:
            child = self.prefixes.child(node, growing.tokens[growing.read : growing.read + self._size])
            if child is None:
                break
            node = child
            growing.table.append(self.pages.hold(child.page))
            growing.shared += 1
            growing.read += self._size
        growing.node = node
        if growing.left > _WORTH_A_COPY and growing.may_copy:
            page, agree = self.prefixes.partial(
                node, growing.tokens[growing.read : min(growing.read + self._size, len(growing.tokens) - 1)]
            )
            if agree >= _WORTH_A_COPY:
                growing.table.append(self.pages.hold(page))
                growing.read += agree
        growing.cached = max(growing.cached, 0) + (growing.read - before if not growing.drawn else 0)

    def reserve(self, growing: Growing, num: int) -> bool:
        """Take the pages that its next `num` tokens need, and a copy of one that others hold too; False: there are none.

        A page that cannot be copied is given back and not looked for again: where a sequence needs all pages there are, the
        one it would copy must be free to go.
        """
        at = growing.read // self._size
        is_shared = at < len(growing.table) and self.pages.holders[growing.table[at]] > 1
        wanted = -(-(growing.read + num) // self._size) - len(growing.table) + is_shared
        missing = wanted - self.pages.num_free
        if missing > 0 and (self.prefixes is None or self.prefixes.evict(max(missing, self.prefixes.num // 64)) < missing):
            if is_shared:
                self.pages.drop(growing.table.pop())
                growing.read, growing.may_copy = at * self._size, False
            return False
        if is_shared:
            own = self.pages.take()
            self.pages.copy(growing.table[at], own)
            self.pages.drop(growing.table[at])
            growing.table[at] = own
            wanted -= 1
        growing.table.extend(self.pages.take() for _ in range(wanted))
        return True

    def advance(self, growing: Growing, num: int) -> None:
        """So many tokens have been read; pages that are full now can be found by others."""
        growing.read += num
        if self.prefixes is None:
            return
        node = growing.node or self.prefixes.root(growing.root)
        while (growing.shared + 1) * self._size <= growing.read:
            at = growing.shared
            node = self.prefixes.add(node, growing.tokens[at * self._size : (at + 1) * self._size], growing.table[at])
            if node.page != growing.table[at]:
                self.pages.hold(node.page)
                self.pages.drop(growing.table[at])
                growing.table[at] = node.page
            growing.shared += 1
        growing.node = node

    def release(self, growing: Growing) -> None:
        """Give all pages back; it is read anew if it goes on."""
        for page in growing.table:
            self.pages.drop(page)
        growing.table.clear()
        growing.read, growing.node, growing.shared, growing.cached = 0, None, 0, -1
