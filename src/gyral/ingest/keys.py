"""Who may send events, and of which kinds: each key has its own rates, token buckets that hold a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gyral.config.sections import Key
from gyral.http import Refused
from gyral.keys import LOOP, Granted, KeysFile, Ring, refusal


class Keys:
    """The keys of one server. Without any, everybody may send.

    Parameters
    ----------
    file : further keys, those in it that may send; empty: none. One that is not there yet is waited for.
    note : told of a file that became unreadable.

    Raises
    ------
    ConfigError : the file cannot be read.
    """

    def __init__(self, keys: Sequence[Key], file: str = "", note: Callable[[str], None] = print) -> None:
        self._told = list(keys)
        self._file = KeysFile(Path(file), "send", note) if file else None
        self._spenders: dict[str, Spender] = {}
        self._use()

    def _use(self) -> None:
        """Whoever is unchanged keeps what it has spent."""
        more = self._file.keys if self._file is not None else ()
        kept, self._spenders = self._spenders, {}
        for key in [*self._told, *map(_key, more)]:
            spender = kept.get(key.sha256)
            self._spenders[key.sha256] = spender if spender is not None and spender.key == key else Spender(key)
        self._ring = Ring(self._spenders)
        self._has_keys = any(each.name != LOOP for each in self._spenders.values())

    def check(self, authorization: bytes) -> Spender | None:
        """The key of a request, None when none is asked for.

        Raises
        ------
        Refused : 401 without a known key, 403 with one that may not send, 429 when it has spent more than its rates.
        """
        if self._file is not None and self._file.has_changed(time.monotonic()):
            self._use()
        if not self._has_keys and not (self._file is not None and self._file.is_there):
            return None
        spender = self._ring.find(authorization)
        if spender is None:
            raise refusal(authorization, self._file, "send")
        spender.spend(0, 0)
        return spender


class Spender:
    """A key and what it may still spend."""

    def __init__(self, key: Key) -> None:
        self.key, self.name = key, key.name
        self._rates = (float(key.bytes_per_s or math.inf), float(key.events_per_s or math.inf))
        self._left = list(self._rates)
        self._at = time.monotonic()

    def refusal(self, kinds: Iterable[str]) -> Refused | None:
        """The error of a request with events of these kinds; None: all of them may be sent."""
        allowed = self.key.kinds
        wrong = sorted(set(kinds).difference(allowed)) if allowed else []
        if not wrong:
            return None
        listed = ", ".join(f"`{each}`" for each in allowed)
        return Refused(403, f"the key `{self.name}` may not send `{wrong[0][:100]}`", hint=f"it may send {listed}")

    def spend(self, size_bytes: int, num_events: int) -> None:
        """Take from the buckets; a request may overdraw them once, which the next ones wait for.

        Raises
        ------
        Refused : 429, when a bucket is empty.
        """
        now = time.monotonic()
        passed, self._at = now - self._at, now
        for place, (rate, spent) in enumerate(zip(self._rates, (size_bytes, num_events), strict=True)):
            self._left[place] = min(rate, self._left[place] + rate * passed) if rate < math.inf else math.inf
            if spent:
                self._left[place] -= spent
            elif self._left[place] <= 0 and not (size_bytes or num_events):
                wait = math.ceil(-self._left[place] / rate) or 1
                headers = ((b"retry-after", b"%d" % wait),)
                what = f"the key `{self.name}` has spent its {('bytes', 'events')[place]} a second"
                raise Refused(429, what, hint=f"send it again in {wait} s or later", headers=headers)


def _key(granted: Granted) -> Key:
    return Key(granted.name, granted.sha256, granted.events_per_s, int(granted.bytes_per_s), granted.kinds)
