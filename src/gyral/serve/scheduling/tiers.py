"""How a request is put into a class of devices (`gyral.model.tiers`).

A request may name its tier (`x-gyral-tier`); else client hints say (`sec-ch-ua-mobile`, `device-memory`), else the name of the
browser, and what is no browser is a program on a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gyral.config.sections import DeviceTier
from gyral.errors import InputError, did_you_mean

PHONES: Final = (b"iphone", b"android", b"mobile")


class Classified(NamedTuple):
    """A tier, and what put the request into it."""

    name: str
    tier: DeviceTier
    why: str


def classify(headers: Mapping[bytes, bytes], known: Mapping[str, DeviceTier]) -> Classified:
    """The tier of a request.

    Parameters
    ----------
    headers : by lower-case name.

    Raises
    ------
    InputError : it names a tier that is not here.
    """
    named = headers.get(b"x-gyral-tier", b"").decode("latin-1").strip()
    if named:
        if named not in known:
            raise InputError(f"there is no tier `{named[:100]}`", hint=did_you_mean(named[:100], known))
        return Classified(named, known[named], "declared")
    memory = _memory_bytes(headers.get(b"device-memory", b""))
    if headers.get(b"sec-ch-ua-mobile") == b"?1" and "phone" in known:
        return Classified("phone", known["phone"], "`sec-ch-ua-mobile` says so")
    agent = headers.get(b"user-agent", b"")[:512].lower()
    is_browser = agent.startswith((b"mozilla/", b"opera/")) or memory > 0
    if not is_browser and "server" in known:
        return Classified("server", known["server"], "no browser asks")
    if any(word in agent for word in PHONES) and "phone" in known:
        return Classified("phone", known["phone"], "`user-agent` is a phone's")
    if memory and (fit := [name for name, tier in known.items() if tier.memory_bytes <= memory]):
        name = max(fit, key=lambda each: (known[each].is_on_battery, known[each].memory_bytes))
        return Classified(name, known[name], f"`device-memory` is {memory >> 30} GiB or more")
    name = "laptop" if "laptop" in known else next(iter(known))
    return Classified(name, known[name], "`user-agent` is a browser's")


def _memory_bytes(value: bytes) -> int:
    """`device-memory` is in GiB, .25 to 8 by its specification; what is no such number says nothing."""
    try:
        told = float(value) if len(value) <= 8 else 0.0
    except ValueError:
        return 0
    return int(told * (1 << 30)) if 0 < told <= 1024 else 0
