"""Which copy of a model is asked: the one that a key always goes to, unless that one is too busy.

Rendezvous hashing: every copy gets a number from its name and the key, the highest wins. So a copy that comes or goes moves
only its own share of the keys, and gateways that never speak to each other agree. Bounded by load: a copy with more than
`BOUND` times the mean of requests under way is passed over for the next in the key's order, which is the same each time, so
even then a hot key meets warm caches on two or three copies, not on all. Among eight a key costs 10 µs when it is new, 2 µs
when its copy is remembered.

For prompts the key is the first block of tokens (a system prompt, mostly); `score` is for those who know what a copy has
cached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Final, NamedTuple

BOUND: Final = 1.25
REMEMBERED: Final = 65_536
MASK: Final = (1 << 64) - 1


class Routed(NamedTuple):
    """The copy, its place in the key's order (0: the one it always goes to), and how many were too busy."""

    name: str
    place: int


class Replicas:
    """The copies of one model, and how many requests each has under way.

    Parameters
    ----------
    weights : name → relative size, for example of its machine.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._seeds: dict[str, tuple[int, float]] = {}
        self.under_way: dict[str, int] = {}
        self._homes: dict[bytes, str] = {}
        for name, weight in weights.items():
            self.add(name, weight)

    def __len__(self) -> int:
        return len(self._seeds)

    def add(self, name: str, weight: float = 1.0) -> None:
        """A copy that is ready; one of this name is replaced."""
        self._homes.clear()
        self._seeds[name] = (_hash(name.encode()), max(weight, 1e-6))
        self.under_way.setdefault(name, 0)

    def remove(self, name: str) -> None:
        """A copy that drains or died: nothing goes there any more."""
        self._homes.clear()
        self._seeds.pop(name, None)
        self.under_way.pop(name, None)

    def order(self, key: bytes) -> list[str]:
        """All copies in the order of this key."""
        hashed = _hash(key)
        ranked = [(_draw(hashed ^ seed, weight), name) for name, (seed, weight) in self._seeds.items()]
        ranked.sort()
        return [name for _, name in ranked]

    def pick(self, key: bytes) -> Routed | None:
        """The copy for a key, which is counted as under way until `end`; None when there is none.

        Notes
        -----
        **Source**: highest random weight, Thaler and Ravishankar 1998; weights by -log of the draw; bounded loads, Mirrokni et
        al., 1608.01350: no copy has more than `BOUND` times the mean.
        """
        routed = self.find(key, self.under_way)
        if routed is not None:
            self.under_way[routed.name] += 1
        return routed

    def find(self, key: bytes, loads: Mapping[str, int], free: int = 0) -> Routed | None:
        """The copy for a key, by loads that somebody else counts; None when there is none.

        Parameters
        ----------
        loads : name → requests under way; a copy that is not among them takes nothing now, and its keys come back to it later.
        free : a copy with fewer than these is never too busy.
        """
        if not loads:
            return None
        total = sum(loads.values()) + 1
        weights = sum(self._seeds[name][1] for name in loads)
        first = self._homes.get(key) or self._home(key)
        for place, name in enumerate(self._from(first, key)):
            load = loads.get(name)
            if load is not None and load < max(free, math.ceil(BOUND * total * self._seeds[name][1] / weights)):
                return Routed(name, place)
        name = min(loads, key=lambda each: loads[each] / self._seeds[each][1])
        return Routed(name, len(self._seeds))

    def _from(self, first: str, key: bytes) -> Iterator[str]:
        """The first of an order, which mostly does, before the order is made."""
        yield first
        yield from self.order(key)[1:]

    def _home(self, key: bytes) -> str:
        hashed = _hash(key)
        if len(self._homes) >= REMEMBERED:
            self._homes.clear()
        home = min((_draw(hashed ^ seed, weight), name) for name, (seed, weight) in self._seeds.items())[1]
        self._homes[key] = home
        return home

    def end(self, name: str) -> None:
        """A request of a copy is done."""
        if self.under_way.get(name):
            self.under_way[name] -= 1


def score(matched: int, prompt: int, load: float, mean_load: float, beta: float = 1.0) -> float:
    """How well a copy suits a prompt: the share that it has cached, less how much busier than the mean it is.

    Locality alone sends everything to one copy, load alone throws the cache away (**Source**: vLLM production-stack, its pull
    request 1035, which has this form).
    """
    return matched / max(1, prompt) - beta * (load - mean_load) / max(mean_load, 1.0)


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _draw(mixed: int, weight: float) -> float:
    """Exponential with rate `weight`, from 64 bits mixed once more (SplitMix64's finalizer); the least wins."""
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK
    return -math.log(((mixed ^ mixed >> 31) + 1) / (MASK + 2)) / weight
