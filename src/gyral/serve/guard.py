"""Who may ask, and what is counted of every request that is asked of a model, whoever answers it."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any

from gyral.config.sections import Serve
from gyral.errors import InputError
from gyral.http import AsgiApp, Receive, Refused, Scope, Send, header, reply
from gyral.model.tiers import tiers
from gyral.serve.metrics import Metrics
from gyral.serve.scheduling.quota import Account, Quotas
from gyral.serve.scheduling.tiers import HEADERS, Classified, classify
from gyral.serve.traces import Traces

GONE = 499
"""The status that is counted where a client went before its answer."""

ACCOUNT = "gyral.account"
"""Where the scope of a request that was let in has its `Account`."""

REMEMBERED, MAX_REMEMBERED_BYTES = 1_024, 2_048
"""Combinations of headers whose class is remembered, and how long one may be: a look costs 2 µs otherwise."""


class Guard:
    """Keys, quotas and counts of one server.

    Raises
    ------
    ConfigError : the keys cannot be used.
    """

    def __init__(self, config: Serve, metrics: Metrics, note: Callable[[str], None]) -> None:
        self._quotas, self._metrics = Quotas(config.keys, time.monotonic(), file=config.keys_file, note=note), metrics
        self._traces = Traces.of_environment()
        self._tiers = tiers(config.tiers)
        self._classified: dict[tuple[bytes, ...], Classified] = {}

    def begin(self, path: str, authorization: bytes, size_bytes: int, now: float) -> Account:
        """Let a request in; `end` is called once for each.

        Raises
        ------
        Refused : 401, 403 or 429, which is counted.
        """
        try:
            account = self._quotas.find(authorization, now)
            account.begin(now)
        except Refused as refused:
            self._metrics.answered(path, refused.status, 0.0)
            raise
        account.spend(size_bytes=size_bytes)
        return account

    def tier(self, header: Callable[[bytes], bytes]) -> Classified:
        """The class of devices that a request is of, counted.

        Raises
        ------
        Refused : 400, it names one that is not here.
        """
        values = tuple(map(header, HEADERS))
        found = self._classified.get(values)
        if found is None:
            try:
                found = classify({name: value for name, value in zip(HEADERS, values, strict=True) if value}, self._tiers)
            except InputError as error:
                raise Refused(400, error.what, error.why, error.hint) from None
            if sum(map(len, values)) <= MAX_REMEMBERED_BYTES:
                if len(self._classified) >= REMEMBERED:
                    self._classified.clear()
                self._classified[values] = found
        self._metrics.of_tier(found.name)
        return found

    def end(self, account: Account, path: str, status: int, began: float, parent: bytes = b"", model: str = "") -> None:
        """It is answered, refused or gone.

        Parameters
        ----------
        parent : its header `traceparent`.
        model : that answered.
        """
        account.end()
        self._metrics.answered(path, status, time.monotonic() - began)
        if self._traces is not None:
            self._traces.request(path, status, began, parent, {"gyral.model": model, "gyral.caller": account.caller.name})

    def close(self) -> None:
        """Send what traces wait; may be called twice."""
        if self._traces is not None:
            self._traces.close()

    def check(self, authorization: bytes) -> Account:
        """Whose request it is, for what costs nothing.

        Raises
        ------
        Refused : 401 or 403.
        """
        return self._quotas.find(authorization, time.monotonic())

    def around(self, app: AsgiApp, body_of: Callable[[Refused, str], bytes]) -> AsgiApp:
        """An application of models that is let in and counted like the server's own routes; bytes are those it announces.

        It finds whose request it is in the scope, to refuse what this caller may not ask and to charge tokens.

        Parameters
        ----------
        body_of : an error as its clients read them, of what was refused and the path.
        """

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            path, began, status = scope["path"], time.monotonic(), GONE
            length = header(scope, b"content-length")
            try:
                account = self.begin(path, header(scope, b"authorization"), int(length) if length[:18].isdigit() else 0, began)
            except Refused as refused:
                await reply(send, refused.status, body_of(refused, path), *refused.headers)
                return

            async def counted(message: MutableMapping[str, Any]) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app({**scope, ACCOUNT: account}, receive, counted)
            finally:
                self.end(account, path, status, began, header(scope, b"traceparent"))

        return guarded
