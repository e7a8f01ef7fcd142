"""Which variant of a model a device gets, by the rules that also choose who answers (`gyral.serve.scheduling.router`).

Only what a server serves can be downloaded: its models, what those were compressed from, and what was compressed from that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gyral.config.sections import NAME, DeviceTier
from gyral.errors import GyralError, InputError
from gyral.files import versions
from gyral.http import Refused
from gyral.model import card as cards
from gyral.model.card import Card
from gyral.model.metrics import SMALLER_IS_BETTER
from gyral.serve.bundles.shelf import Content, Shelf
from gyral.serve.scheduling.cost import Cost, Curve
from gyral.serve.scheduling.quota import Account
from gyral.serve.scheduling.router import Variant, Wish, choose, consider

VERSION = re.compile(rf"({NAME})@([1-9][0-9]{{0,8}})")
_UNTIMED = Curve(1e-6, 0.0)
"""Nobody waits on a server for what runs on a device."""


class Chosen(NamedTuple):
    """A version, its card, what its bundle holds, and why it is this one."""

    card: Card
    content: Content
    why: str


class Offers:
    """The variants of what a server serves.

    Parameters
    ----------
    served : slot → model `name@n`.
    """

    def __init__(self, models: Path, served: Callable[[], dict[str, str]], shelf: Shelf) -> None:
        self._models, self._served, self._shelf = models, served, shelf
        self._cards: dict[str, tuple[int, Card]] = {}

    def pick(self, asked: str, tier_name: str, tier: DeviceTier, account: Account) -> Chosen:
        """The variant for a device. Of a model by its name, `name@n` alone is pinned.

        Parameters
        ----------
        account : who asks; whoever may ask a model may have what was compressed from it.

        Raises
        ------
        Refused : there is no such model here, or no variant for such a device.
        """
        found: list[Chosen] = []
        why = ""
        for version in self._variants(asked, account):
            try:
                card = self._card(version)
                found.append(Chosen(card, self._shelf.content(version), ""))
            except GyralError as error:
                why = f"{error.what}: {error.why}" if error.why else error.what
        if not found:
            raise Refused(409, f"`{asked}` cannot go to a device", why=why, hint="ask the server instead")
        pairs = []
        for each in found:
            quality = each.card.quality or 0.0
            quality = -quality if each.card.metric.endswith(SMALLER_IS_BETTER) else quality
            size = sum(file.size_bytes for file in each.content.files)
            runtimes = tuple(each.content.runtimes or tier.runtimes)
            variant = Variant(each.content.version, quality, size, size, {}, runtimes)
            pairs.append((variant, consider(variant, Wish(tier_name), Cost(_UNTIMED), tier)))
        choice = choose(pairs, tier=tier)
        if choice.variant is None:
            told = "; ".join(f"`{each.name}` {each.verdict}" for each in choice.considered)
            raise Refused(409, f"no variant of `{asked}` is for a {tier_name}", why=told, hint="ask the server instead")
        best = next(each for each in found if each.content.version == choice.variant.name)
        return best._replace(why=choice.why)

    def may_have(self, version: str) -> bool:
        """Whether a device may have been given this version."""
        base = version.partition("@")[0]
        return any(base == name.partition("@")[0] or self._root(version) == self._root(name) for name in self._names())

    def _names(self) -> set[str]:
        return set(self._served().values())

    def _variants(self, asked: str, account: Account) -> list[str]:
        """Versions that are candidates, the one that is served first."""
        slots = self._served()
        served = slots.get(asked) or next((name for name in slots.values() if name.partition("@")[0] == asked), None)
        if served is None and VERSION.fullmatch(asked) and self.may_have(asked):
            account.check(asked, self._root(asked))
            return [asked]
        if served is None:
            served = next((name for name in slots.values() if asked in self._bases(self._root(name))), None)
            if served is None:
                mine = account.of(slots, lambda slot: self._root(slots[slot]))
                listed = ", ".join(f"`{name}`" for name in sorted(set(mine.values())))
                raise Refused(404, f"there is no bundle of `{asked[:200]}`", hint=f"this server has {listed}")
        root = self._root(served)
        account.check(served, root)
        return [served, *(each for each in self._bases(root).values() if each != served)]

    def _root(self, version: str) -> str:
        """The version that it was compressed from; itself where it was not."""
        try:
            compression = self._card(version).compression
        except InputError:
            return version
        return compression.from_model if compression is not None else version

    def _bases(self, root: str) -> dict[str, str]:
        """Name of a model → its newest version that is `root` or was compressed from it."""
        found: dict[str, str] = {}
        base = root.partition("@")[0]
        for path in self._models.glob(f"{base}*@*"):
            told = VERSION.fullmatch(path.name)
            if told is None:
                continue
            name, number = told[1], int(told[2])
            if self._root(path.name) == root and number > int(found.get(name, "@0").partition("@")[2]):
                found[name] = path.name
        return dict(sorted(found.items()))

    def _card(self, version: str) -> Card:
        """The card of a version that may be there; read again when it has changed."""
        name, _, number = version.partition("@")
        if not VERSION.fullmatch(version) or int(number) not in versions(self._models, name):
            raise InputError(f"there is no model `{version[:200]}`")
        path = self._models / version
        try:
            changed_ns = (path / "card.json").stat().st_mtime_ns
        except OSError:
            changed_ns = 0
        if version not in self._cards or self._cards[version][0] != changed_ns:
            self._cards[version] = (changed_ns, cards.read_card(path))
        return self._cards[version][1]
