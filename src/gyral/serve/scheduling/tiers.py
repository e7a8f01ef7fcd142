"""How a request is put into a class of devices (`gyral.model.tiers`), and what that asks of its answer.

A request may name its tier (`x-gyral-tier`); else client hints say (`sec-ch-ua-mobile`, `device-memory`), else the name of the
browser, and what is no browser is a program on a server. What a tier says of deadlines and quality counts for requests that
say nothing themselves. Of its deadline the time that the network takes is taken off, there and back: what the browser has
observed (`rtt`, milliseconds) where it says so, else the tier's `round_trip_ms`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from gyral.config.sections import DeviceTier
from gyral.errors import InputError, did_you_mean

HEADERS: Final = (b"x-gyral-tier", b"sec-ch-ua-mobile", b"device-memory", b"user-agent", b"rtt")
"""What is looked at."""
LEAST_S: Final = 1e-3
"""Left of a deadline that the network takes all of: the request is answered that it is too late."""
PHONES: Final = (b"iphone", b"android", b"mobile")


class Classified(NamedTuple):
    """A tier, and what put the request into it."""

    name: str
    tier: DeviceTier
    why: str
    round_trip_s: float = 0.0

    def deadline_s(self, default_s: float) -> float:
        """Seconds until an answer has to leave here; `default_s` where the tier has no deadline."""
        if not self.tier.deadline_ms:
            return default_s
        return max(LEAST_S, self.tier.deadline_ms / 1e3 - self.round_trip_s)

    def floor(self) -> float:
        """Least quality of an answer; −inf: any."""
        return self.tier.min_quality or -math.inf


def classify(headers: Mapping[bytes, bytes], known: Mapping[str, DeviceTier]) -> Classified:
    """The tier of a request.

    Parameters
    ----------
    headers : by lower-case name.

    Raises
    ------
    InputError : it names a tier that is not here.
    """
    name, why = _named(headers, known)
    observed = _number(headers.get(b"rtt", b""))
    trip_s = (observed if observed >= 0 else known[name].round_trip_ms) / 1e3
    return Classified(name, known[name], why, trip_s)


def _named(headers: Mapping[bytes, bytes], known: Mapping[str, DeviceTier]) -> tuple[str, str]:
    named = headers.get(b"x-gyral-tier", b"").decode("latin-1").strip()
    if named:
        if named not in known:
            raise InputError(f"there is no tier `{named[:100]}`", hint=did_you_mean(named[:100], known))
        return named, "declared"
    memory = _memory_bytes(headers.get(b"device-memory", b""))
    if headers.get(b"sec-ch-ua-mobile") == b"?1" and "phone" in known:
        return "phone", "`sec-ch-ua-mobile` says so"
    agent = headers.get(b"user-agent", b"")[:512].lower()
    is_browser = agent.startswith((b"mozilla/", b"opera/")) or memory > 0
    if not is_browser and "server" in known:
        return "server", "no browser asks"
    if any(word in agent for word in PHONES) and "phone" in known:
        return "phone", "`user-agent` is a phone's"
    if memory and (fit := [name for name, tier in known.items() if tier.memory_bytes <= memory]):
        name = max(fit, key=lambda each: (known[each].is_on_battery, known[each].memory_bytes))
        return name, f"`device-memory` is {memory >> 30} GiB or more"
    name = "laptop" if "laptop" in known else next(iter(known))
    return name, "`user-agent` is a browser's"


def _memory_bytes(value: bytes) -> int:
    """`device-memory` is in GiB, .25 to 8 by its specification; what is no such number says nothing."""
    told = _number(value)
    return int(told * (1 << 30)) if 0 < told <= 1024 else 0


def _number(value: bytes) -> float:
    """−1 where it says nothing that can be."""
    try:
        told = float(value) if 0 < len(value) <= 8 else -1.0
    except ValueError:
        return -1.0
    return told if 0 <= told < 3_600_000 else -1.0
