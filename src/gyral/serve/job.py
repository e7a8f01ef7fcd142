"""What a worker is to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MODELS = "gyral.serve.models:open_model"


class Job(msgspec.Struct, kw_only=True):
    """What one worker runs.

    Attributes
    ----------
    source : what the engine is opened from: a project folder.
    version : what it loads before it says that it is ready.
    engine : `module:function`, called with (source, version, options), gives an `Engine` that is loaded, touched and warm.
    python : interpreter of a back end with packages of its own; it needs `msgspec`, and gyral's sources come along.
    socket : number of the socket that it inherits; -1: it connects to `address` (`HOST:PORT`) with the `secret` (hex).
    """

    source: str
    version: str
    engine: str = MODELS
    options: dict[str, Any] = {}
    environment: dict[str, str] = {}
    python: str = ""
    number: int = 0
    socket: int = -1
    address: str = ""
    secret: str = ""
    token: str = ""


def set_of(models: Mapping[str, str]) -> str:
    """Name → version, as one word for a set of versions."""
    return " ".join(f"{name}={version}" for name, version in models.items())


def in_set(version: str) -> dict[str, str]:
    """What `set_of` wrote; a version alone is a set of one."""
    pairs = (each.rpartition("=") for each in version.split())
    return {name or found.partition("@")[0]: found for name, _, found in pairs}
