"""Which worker an ask goes to: the one with the fewest, or, where a key says what it may have at hand, the one of the key.

Never one that has no room, and not the one that died of this ask as long as there is another. Of those that load a version an
ask without a key keeps away; a key stays where it is, since what is kept for it costs more to make again than a thread that
loads takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from gyral.serve.carrier import Carrier, Flight
from gyral.serve.keep import Kept
from gyral.serve.scheduling.replicas import Replicas

FREE: Final = 4
"""Asks of one worker that never make it too busy for a key: texts that are written together cost little more than one."""


class Chooser:
    """Chooses among the workers of a pool.

    Parameters
    ----------
    kept : their places as they are now; those of a worker that is started again keep their keys.
    window : asks of one worker at most.
    """

    def __init__(self, kept: Callable[[], Sequence[Kept]], window: int) -> None:
        self._kept, self._window = kept, window
        self._places: list[int] = []
        self._copies = Replicas({})

    def choose(self, flight: Flight) -> Carrier | None:
        """The worker for an ask; None when none has room."""
        if flight.ask.key:
            carrier = self._of_key(flight)
            if carrier is not None:
                return carrier
        return self._least(flight)

    def _of_key(self, flight: Flight) -> Carrier | None:
        kept = self._kept()
        places = [each.number for each in kept]
        if places != self._places:
            self._replace(places)
        version = flight.ask.version
        loads, by_name = {}, {}
        for each in kept:
            at = each.carrier
            if at is None or not at.has_room(self._window) or at.number == flight.avoid:
                continue
            if version and version not in at.versions:
                continue
            name = str(at.number)
            loads[name], by_name[name] = len(at.flights), at
        routed = self._copies.find(flight.ask.key, loads, FREE)
        return by_name[routed.name] if routed is not None else None

    def _least(self, flight: Flight) -> Carrier | None:
        """The one with the fewest asks; not the one that died of it, and one that has its version, if there is any."""
        best: Carrier | None = None
        least = math.inf
        window, version = self._window, flight.ask.version
        for kept in self._kept():
            at = kept.carrier
            if at is None or not at.has_room(window):
                continue
            cost = len(at.flights) + (1 << 20) * (at.number == flight.avoid) + (window // 2) * (at.num_loading > 0)
            if version and version not in at.versions:
                cost += 1 << 21
            if cost < least:
                best, least = at, cost
        return best

    def _replace(self, places: list[int]) -> None:
        """Copies that are new take their share of the keys, those that are gone leave theirs."""
        for number in set(self._places) - set(places):
            self._copies.remove(str(number))
        for number in set(places) - set(self._places):
            self._copies.add(str(number))
        self._places = places
