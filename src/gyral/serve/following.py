"""Which models workers should answer with: the newest versions of the model, of its variants, and of the slots of its file.

The same rules as where one process answers (`gyral.serve.slots`), except that nothing is loaded here: a name follows its newest
version, `name@n` is pinned, and a set that could not be loaded leaves the one before it answering until a folder has changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from gyral.errors import GyralError, NotFound
from gyral.files import versions
from gyral.model import card as cards
from gyral.serve.job import in_set, set_of
from gyral.serve.pool import Pool
from gyral.serve.scheduling.cost import Curve
from gyral.serve.scheduling.router import Variant
from gyral.serve.slots import DEFAULT, POLL_S
from gyral.serve.wire import POPULARITY

SLOT = "slot:"
"""Before the name of a slot in a set."""
CANARY = "canary"
"""The slot of a model on trial."""
ALL = "*"
"""Of variants: those that were published when the model was tried for tiers of devices."""
TRIES, AGAIN_S = 4, 0.5
"""How often a set is tried, 1, 2 and 4 s apart."""
GUESS = Curve(1e-3, 1e-3)
"""What a batch costs, until the first are measured: a model of a millisecond."""


class Refusal(NamedTuple):
    """A set that could not be loaded: when its folders had last changed, how often it was tried, and when it may be again."""

    changed: tuple[int, ...]
    times: int
    until: float


class Following:
    """Names sets of versions.

    Parameters
    ----------
    root : project folder.
    model : `name` or `name@n`.
    others : its variants, in the same way.
    canary : a model on trial, or nothing.

    Raises
    ------
    NotFound : one of them has no version.
    """

    def __init__(self, root: Path, model: str, others: Sequence[str], note: Callable[[str], None], canary: str = "") -> None:
        self._root, self._folder, self._note = root, root / cards.FOLDER, note
        known = [] if ALL not in others else published(cards.read_card(cards.find(root, model)))
        self._models = [model, *dict.fromkeys([*(each for each in others if each != ALL), *known])]
        self._refused: dict[str, Refusal] = {}
        self._told = ""
        self._canary = canary
        for each in [*self._models, *([canary] if canary else [])]:
            cards.find(root, each)

    def sets(self, current: str = "") -> list[str]:
        """Sets to be tried one after the other, newest first; none is older than the one that answers, or was refused."""
        serving = in_set(current) if current else {}
        first = self._models[0]
        name = first.partition("@")[0]
        least = int(serving[name].rpartition("@")[2]) if name in serving else 0
        newest = [first] if "@" in first else [f"{name}@{n}" for n in reversed(versions(self._folder, name)) if n >= least]
        sets: list[str] = []
        for version in newest:
            found = self._set(name, version)
            if found == current:
                break
            if not self._is_refused(found):
                sets.append(found)
        return sets

    def refuse(self, version: str, error: GyralError) -> None:
        """It could not be loaded: again after a while, as a worker may have died of something else, then not before one of its
        folders has changed."""
        changed, before = self._changed(version), self._refused.get(version)
        times = before.times + 1 if before is not None and before.changed == changed else 1
        self._refused[version] = Refusal(changed, times, time.monotonic() + AGAIN_S * 2**times)
        self._complain(f"{' '.join(in_set(version).values())} cannot be served, what answers goes on: {error}")

    async def follow(self, pool: Pool, swapped: Callable[[str], Awaitable[None]]) -> None:
        """Have the newest versions answer, for ever.

        Parameters
        ----------
        swapped : told of a set that the workers of the pool have begun to answer with.
        """
        while True:
            await asyncio.sleep(POLL_S)
            try:
                for version in await asyncio.to_thread(self.sets, pool.versions.current):
                    try:
                        await pool.swap(version)
                    except GyralError as error:
                        self.refuse(version, error)
                        continue
                    await swapped(version)
                    break
            except Exception as error:  # the folder cannot be listed just now: what is loaded goes on answering
                self._note(f"serve    versions cannot be followed: {error}")
                await asyncio.sleep(1)

    def slots(self, version: str) -> dict[str, list[Variant]]:
        """Slot → what may answer there; quality is the share of the first one's that is left."""
        found = in_set(version)
        variants = {name: found[name] for name in found if not name.startswith(SLOT)}
        first = cards.read_card(self._folder / next(iter(variants.values())))
        slots = {DEFAULT: [self._variant(name, each, first) for name, each in variants.items()]}
        slots |= {
            name.removeprefix(SLOT): [self._variant(name, each, None)] for name, each in found.items() if name.startswith(SLOT)
        }
        return slots

    def _is_refused(self, version: str) -> bool:
        refusal = self._refused.get(version)
        if refusal is None or refusal.changed != self._changed(version):
            return False
        return refusal.times >= TRIES or time.monotonic() < refusal.until

    def _set(self, name: str, version: str) -> str:
        found = {name: version}
        for other in self._models[1:]:
            base = other.partition("@")[0]
            found[base if base != name else other] = cards.find(self._root, other).name  # `shop@1` beside `shop`
        extra = self._extra(name)
        if self._canary:
            extra[CANARY] = self._canary
        return set_of(found | {f"{SLOT}{slot}": cards.find(self._root, model).name for slot, model in extra.items()})

    def _extra(self, name: str) -> dict[str, str]:
        path = self._folder / f"{name}.slots.json"
        try:
            named = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
            known = {}
            for slot, model in named.items():
                if slot in (DEFAULT, POPULARITY) or not slot or any(each.isspace() or each == "=" for each in slot):
                    continue
                try:
                    cards.find(self._root, model)
                    known[slot] = model
                except NotFound as error:
                    self._complain(f"the slot `{slot}` is not served: {error}")
            return known
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self._complain(f"{path.name} cannot be read: {error}")
            return {}

    def _variant(self, name: str, version: str, first: cards.Card | None) -> Variant:
        card = cards.read_card(self._folder / version)
        tried = {each.model: each for each in [*card.variants, *(first.variants if first is not None else ())]}.get(card.model)
        memory = tried.memory_bytes if tried is not None else card.size_bytes
        curves = {"server": _curve(tried)}
        # when it is sure was found against one version of the model, whose card says so, and tells nothing of another
        held = next((each.cascade for each in first.variants if each.model == card.model), None) if first is not None else None
        return Variant(name, _kept(card, first), card.size_bytes, memory, curves, cascade=held)

    def _changed(self, version: str) -> tuple[int, ...]:
        found = []
        for each in in_set(version).values():
            try:
                found.append((self._folder / each).stat().st_mtime_ns)
            except OSError:
                found.append(0)
        return tuple(found)

    def _complain(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._note(f"serve    {text}")


def published(card: cards.Card) -> list[str]:
    """Names of what a model was compressed to for tiers; of an older version of itself, that version."""
    own = card.model.partition("@")[0]
    named = [(each.model, each.model.partition("@")[0]) for each in card.variants if each.to and each.model]
    return [model if base == own else base for model, base in named]


def _curve(tried: cards.Variant | None) -> Curve:
    """What a batch costs, as it was measured when the variant was made; the server learns the rest."""
    if tried is None or not {"1", "8"} <= tried.p50_ms.keys():
        return GUESS
    one, eight = (1e-3 * tried.p50_ms[size] for size in ("1", "8"))
    each_s = max(1e-7, (eight - one) / 7)
    return Curve(max(1e-7, one - each_s), each_s)


def _kept(card: cards.Card, first: cards.Card | None) -> float:
    """What of the first one's quality is left: by the loss that was measured when it was compressed, else by the cards."""
    if first is None or card.model == first.model:
        return 1.0
    if card.compression is not None and card.compression.from_model.partition("@")[0] == first.model.partition("@")[0]:
        return 1.0 - card.compression.relative_loss
    mine, its = card.quality, first.quality
    return mine / its if mine is not None and its else 1.0
