"""Asking whoever started some shards for more of them, or fewer, by a file in the folder where they are found.

Shards belong to the process that started them, which also starts again the ones that die; a tool in another process leaves a
word and waits until the list of shards says that it was heard.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gyral.errors import RankError
from gyral.files import write_atomic

HEARD_S = 30.0
LOOK_S = 0.1
_FILE = "wanted.json"


class Wanted(msgspec.Struct):
    """How many; whether those beyond that number are to end."""

    shards: int
    end: bool = False


def want(folder: Path, shards: int, end: bool, is_so: Callable[[], bool]) -> None:
    """Leave word, and wait until it is so.

    Raises
    ------
    RankError : nobody hears it.
    """
    path = folder / _FILE
    write_atomic(path, msgspec.json.encode(Wanted(shards, end)))
    until = time.monotonic() + HEARD_S
    while path.exists() or not is_so():
        if time.monotonic() > until:
            path.unlink(missing_ok=True)
            why = "the process that started these shards is gone, or is not from this version"
            raise RankError(f"waited {HEARD_S:g} s for somebody to have {shards} shards", why=why, where=str(folder))
        time.sleep(LOOK_S)


def heard(folder: Path) -> Wanted | None:
    """What somebody wants; call `done` when it is so."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=Wanted)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def done(folder: Path) -> None:
    """It is so."""
    (folder / _FILE).unlink(missing_ok=True)
