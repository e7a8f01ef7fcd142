"""What each key may ask: requests, tokens and bytes a second, requests at once; its priority and its share.

Checked before a body is read, charged for the body when it is there, and for tokens when they were made: nobody knows before
how long an answer gets, so a key may overdraw its tokens once and then waits. Without keys everybody is one caller without
limits. Keys come from `[[serve.keys]]` and from `serve.keys_file`, which is waited for where it is not there yet and read again
when it changes; a broken file leaves those that were there. A request costs 3 µs, half of it the look-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gyral.config.sections import Caller
from gyral.errors import ConfigError
from gyral.http import Refused
from gyral.keys import LOOP, Bucket, KeysFile, Ring, refusal

UNITS = ("requests", "tokens", "bytes")


class Account:
    """A caller, what it may still spend, and how many of its requests are under way."""

    __slots__ = ("_buckets", "_is_bounded", "caller", "under_way")

    def __init__(self, caller: Caller, now: float) -> None:
        self.caller, self.under_way = caller, 0
        rates = (caller.requests_per_s, caller.tokens_per_s, caller.bytes_per_s)
        self._buckets = [Bucket(rate, rate * caller.burst_s, now) if rate else None for rate in rates]
        self._is_bounded = any(rates)

    def begin(self, now: float) -> None:
        """Count a request as under way.

        Raises
        ------
        Refused : 429 with `retry-after`, when a rate is spent or too many are under way; then nothing was counted.
        """
        caller = self.caller
        if caller.at_once and self.under_way >= caller.at_once:
            what = f"`{caller.name}` has {self.under_way:,} requests under way"
            raise Refused(429, what, hint=f"at most {caller.at_once:,} at once", headers=((b"retry-after", b"1"),))
        for unit, bucket in zip(UNITS, self._buckets, strict=True) if self._is_bounded else ():
            if bucket is not None and (wait := bucket.wait_s(now)):
                after = math.ceil(wait)
                what = f"`{caller.name}` has spent its {unit} a second"
                raise Refused(429, what, hint=f"ask again in {after} s", headers=((b"retry-after", b"%d" % after),))
        self.spend(requests=1)
        self.under_way += 1

    def may_ask(self, model: str, made_from: str = "") -> bool:
        """Whether a model, `name@n`, or the one that it was made from, is one of those that this caller may ask."""
        models = self.caller.models
        return not models or any(each in models or each.partition("@")[0] in models for each in (model, made_from))

    def of(self, slots: Mapping[str, str], made_from: Callable[[str], str] = lambda _: "") -> dict[str, str]:
        """Of slot → model, what this caller may ask, which is all that it is told of; `made_from` is asked of a slot."""
        return {slot: model for slot, model in slots.items() if self.may_ask(model, made_from(slot))}

    def check(self, model: str, made_from: str = "") -> None:
        """Let nobody ask what is not theirs to ask.

        Parameters
        ----------
        made_from : what the model was compressed from: whoever may ask that may ask it, too.

        Raises
        ------
        Refused : 403.
        """
        if not self.may_ask(model, made_from):
            listed = ", ".join(f"`{each}`" for each in self.caller.models)
            raise Refused(403, f"the key `{self.caller.name}` may not ask `{model}`", hint=f"it may ask {listed}")

    def end(self) -> None:
        """The request is answered, refused or gone; called once for each `begin`."""
        self.under_way = max(0, self.under_way - 1)

    def spend(self, *, requests: float = 0, tokens: float = 0, size_bytes: float = 0) -> None:
        """Charge what is known by now; negative amounts are given back."""
        if not self._is_bounded:
            return
        for bucket, amount in zip(self._buckets, (requests, tokens, size_bytes), strict=True):
            if bucket is not None and amount:
                bucket.spend(amount)


class Quotas:
    """All callers of a server.

    Raises
    ------
    ConfigError : two have one name or one key, or the file is there at the start and cannot be read.
    """

    def __init__(self, callers: Sequence[Caller], now: float, *, file: str = "", note: Callable[[str], None] = print) -> None:
        self._told, self._note = list(callers), note
        self._file = KeysFile(Path(file), "ask", note) if file else None
        self._accounts: dict[str, Account] = {}
        self._anybody = Account(Caller(name="anybody", sha256="0" * 64), now)
        self._use([*self._told, *(self._file.keys if self._file is not None else ())], now)

    def find(self, authorization: bytes, now: float) -> Account:
        """Whose request it is.

        Raises
        ------
        Refused : 401 without a key that is known here, 403 with one that may not ask.
        """
        if self._file is not None and self._file.has_changed(now):
            try:
                self._use([*self._told, *self._file.keys], now)
            except ConfigError as error:
                self._note(f"serve    keys stay as they are: {error.what}: {error.why}")
        if not self._has_keys and not (self._file is not None and self._file.is_there):
            return self._anybody
        account = self._ring.find(authorization)
        if account is None:
            raise refusal(authorization, self._file, "ask")
        return account

    def _use(self, callers: Sequence[Caller], now: float) -> None:
        """Keep the accounts of those who are unchanged, so that a new file gives nobody a full bucket."""
        names, hashes = {each.name for each in callers}, {each.sha256.lower() for each in callers}
        if len(names) < len(callers) or len(hashes) < len(callers):
            where = "serve.keys, serve.keys_file"
            raise ConfigError(
                "keys cannot be used", why="two have one name, or one hash", where=where, hint="give each key a name of its own"
            )
        kept = self._accounts
        self._accounts = {
            each.name: kept[each.name] if each.name in kept and kept[each.name].caller == each else Account(each, now)
            for each in callers
        }
        self._ring = Ring({each.caller.sha256: each for each in self._accounts.values()})
        self._has_keys = any(name != LOOP for name in self._accounts)
