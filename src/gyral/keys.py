"""API keys and rates, shared by the servers: keys are stored as hashes, rates are token buckets.

A key is 256 random bits, so a plain SHA-256 of it tells nothing and costs nothing (1 µs). It is looked up by its hash, in a
dict whose own hash is seeded for each process, and compared in constant time; how long a look-up takes says nothing about a
key, because nobody can choose the hash of a key that he does not have. `gyral keys` writes
hashes to `keys.toml`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from gyral.config.sections import Caller
from gyral.errors import ConfigError
from gyral.files import write_atomic
from gyral.http import Refused
from gyral.toml import toml

FILE_NAME = "keys.toml"
"""In a project folder: while it is there, nothing but `/healthz` is answered without a key."""
LOOK_EVERY_S = 1.0
MAY = {"ask": "ask models", "send": "send events", "see": "see pages"}
"""What keys are good for, in words."""
LOOP = "gyral.loop"
"""The name of the key that a loop gives its own server: good where keys are wanted, and no reason to want them."""

T = TypeVar("T")


def new_key() -> tuple[str, str]:
    """A fresh key and the hash to configure."""
    secret = secrets.token_urlsafe(32)
    return secret, hashlib.sha256(secret.encode()).hexdigest()


class Ring(Generic[T]):
    """What belongs to each key, by the hash of the key."""

    def __init__(self, by_hash: Mapping[str, T]) -> None:
        self._by_hash = {digest.lower(): (digest.lower(), each) for digest, each in by_hash.items()}

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, authorization: bytes) -> T | None:
        """Who sends `authorization: Bearer KEY`; None when nobody known does."""
        scheme, _, secret = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        digest = hashlib.sha256(secret.strip()).hexdigest()
        known = self._by_hash.get(digest)
        return known[1] if known is not None and hmac.compare_digest(known[0], digest) else None


class Bucket:
    """A token bucket: `rate` a second, and what was saved up, `burst` at most.

    What is asked for may overdraw it once, so that a request larger than the burst is possible; the next ones wait for it.
    Clocks that go back give nothing.
    """

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._left, self._at = rate, max(burst, 1.0), max(burst, 1.0), now

    def wait_s(self, now: float) -> float:
        """Seconds until something may be spent again; 0: now."""
        if now > self._at:
            self._left = min(self._burst, self._left + self._rate * min(now - self._at, 1e9))
            self._at = now
        return 0.0 if self._left > 0 else (1e-6 - self._left) / self._rate

    def spend(self, amount: float) -> None:
        """Take; what was taken too much comes back by a negative amount."""
        if math.isfinite(amount):
            self._left = min(self._burst, self._left - amount)


class Granted(Caller, frozen=True, kw_only=True):
    """A key of `keys.toml`: of whom it is, what it is good for, and how much of it."""

    may: Literal["ask", "send", "see"] = "ask"
    events_per_s: Annotated[int, Meta(ge=0)] = 0
    kinds: list[Annotated[str, Meta(min_length=1, max_length=200)]] = []
    added: str = ""

    @property
    def scope(self) -> str:
        """What it may, in words."""
        named = ", ".join(f"`{each}`" for each in self.models or self.kinds)
        return f"{self.may} {named}" if named else MAY[self.may]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Granted] = []


class KeysFile:
    """Keys in a file, read again when it changes; a file that is broken or gone leaves those that were there.

    A file that is not there yet is waited for, so that a project's first key is wanted by servers that run already; one that
    comes broken keeps everybody out until it is mended.

    Parameters
    ----------
    may : what the keys are good for that are wanted here.
    note : told of a file that became unreadable.

    Attributes
    ----------
    is_there : whether it ever was. From then on keys are wanted, also where it has none that are good for this.

    Raises
    ------
    ConfigError : the file is there and cannot be read.
    """

    def __init__(self, path: Path, may: str, note: Callable[[str], None] = print) -> None:
        self._path, self._may, self._note = path, may, note
        self._looked_at = time.monotonic()
        self._stamp = _stamp(path)
        self.is_there = self._stamp is not None
        self.keys: list[Granted] = []
        self._all: Ring[Granted] = Ring({})
        if self.is_there:
            self._read()

    def has_changed(self, now: float) -> bool:
        """Look at most once a second; whether `keys` are others than before."""
        if 0 <= now - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._read()
        except ConfigError as error:
            self._note(f"keys     stay as they are: {error.what}: {error.why}")
            is_first, self.is_there = not self.is_there, True
            return is_first
        self.is_there = True
        return True

    def find(self, authorization: bytes) -> Granted | None:
        """The key of a request, whatever it is good for."""
        return self._all.find(authorization)

    def _read(self) -> None:
        found = read_keys(self._path)
        self._all = Ring({each.sha256: each for each in found})
        self.keys = [each for each in found if each.may == self._may]


def refusal(authorization: bytes, file: KeysFile | None, may: str, wanting: str = "this server", hint: str = "") -> Refused:
    """Why a request is not let in that shows no key which is good for it.

    Parameters
    ----------
    file : where a key may be that is good for something else.
    may : what was wanted of it.
    wanting, hint : who wants a key, and how it is shown.

    Returns
    -------
    403 of a key that is known and good for something else, which its owner is told; 401 of one that is not known, or none.
    """
    known = file.find(authorization) if file is not None else None
    if known is not None:
        return Refused(403, f"the key `{known.name}` may not {MAY[may]}", hint=f"it may {known.scope}")
    headers = ((b"www-authenticate", b"Bearer"),)
    return Refused(401, f"{wanting} wants a key", hint=hint or "send `authorization: Bearer KEY`", headers=headers)


def read_keys(path: Path) -> list[Granted]:
    """All keys of a file.

    Raises
    ------
    ConfigError : it cannot be read.
    """
    try:
        keys = msgspec.toml.decode(path.read_bytes(), type=_File).keys
    except (OSError, ValueError) as error:  # msgspec's, TOML's and Unicode's errors are ValueErrors
        hint = "`gyral keys add NAME --may ask` writes such a file"
        raise ConfigError(f"keys cannot be read from `{path}`", why=str(error), where=str(path), hint=hint) from None
    if len({each.name for each in keys}) < len(keys) or len({each.sha256.lower() for each in keys}) < len(keys):
        raise ConfigError(
            "keys cannot be used", why="two have one name, or one hash", where=str(path), hint="give each key a name of its own"
        )
    return keys


def write_keys(path: Path, keys: Sequence[Granted]) -> None:
    """Replace a file of keys; it holds hashes, and is its owner's alone to read."""
    lines = ["# Made by `gyral keys`: hashes, from which no key can be had. Servers read it again when it changes."]
    for each in keys:
        lines += ["", "[[keys]]", *(f"{name} = {toml(value)}" for name, value in _said(each).items())]
    write_atomic(path, "\n".join(lines) + "\n")
    path.chmod(0o600)


def _said(granted: Granted) -> dict[str, object]:
    usual = msgspec.to_builtins(Granted(name="a", sha256="0" * 64))
    told = {"name": granted.name, "may": granted.may, **msgspec.to_builtins(granted)}
    return {name: value for name, value in told.items() if name == "may" or value != usual[name]}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino
