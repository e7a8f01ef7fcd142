"""A key to see pages: a program sends it as `authorization: Bearer KEY`, a person types it once and has a cookie.

The cookie holds no key: who it is, until when, and a signature by a secret of this process, so it ends with the server, after
12 hours, or when the key is revoked. It is kept from scripts (`HttpOnly`), from other sites (`SameSite=Strict`) and, under TLS,
from plain HTTP (`Secure`). Asked for a key is all that is not `/healthz` and not below `/v1/`, whose routes ask by themselves;
nothing is before the project has its first key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from urllib.parse import parse_qs

from gyral.http import AsgiApp, Header, Receive, Refused, Scope, Send, header, read_body, routed
from gyral.keys import Granted, KeysFile, Ring, refusal

PATH = "/login"
STAYS_S = 12 * 3600
MAX_FORM_BYTES = 4_096
_CSP = b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _CSP),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"same-origin"),  # `no-referrer` would make the form's `origin` null
    (b"x-content-type-options", b"nosniff"),
)
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>gyral: key</title><style>:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif;
margin: 4rem auto; max-width: 24rem; padding: 0 1rem }
input, button { font: inherit; padding: .4rem .6rem; box-sizing: border-box; width: 100% } button { margin-top: .6rem }
</style><main><h1>gyral</h1><!--said--><form method="post" action="/login"><label>Key
<input type="password" name="key" autocomplete="current-password" required autofocus></label><button>Enter</button></form>
<p><code>gyral keys add NAME --may see</code> makes one.</main></html>
"""
_OTHER = "<p role=alert>That key is good for something else; pages want one that may see them."


class Login:
    """Lets in who has one of the keys.

    Parameters
    ----------
    is_secure : the server speaks TLS, so the cookie is never sent without.
    """

    def __init__(self, file: KeysFile, *, is_secure: bool) -> None:
        self._file = file
        self._secret = secrets.token_bytes(32)
        self._cookie = f"gyral-{secrets.token_hex(4)}"  # cookies know no port: servers of one host have one each
        self._attributes = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if is_secure else "")
        self._ring: Ring[Granted] = Ring({})
        self._use()

    def before(self, app: AsgiApp) -> AsgiApp:
        """An application that is seen with a key only."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            self._look()
            if not self.is_wanted:
                await app(scope, receive, send)
                return
            if scope["type"] != "http" or path == "/healthz" or path.startswith("/v1/"):
                await app(scope, receive, send)
            elif path == PATH:
                await routed(self._login, scope, receive, send)
            elif self._is_known(scope):
                await app(scope, receive, send)
            elif b"text/html" in header(scope, b"accept"):
                status = self._refusal(scope).status
                await _page(send, status, "<p>These pages want a key." if status == 401 else _OTHER)
            else:
                await routed(self._refuse, scope, receive, send)

        return guarded

    @property
    def is_wanted(self) -> bool:
        """Whether pages want a key."""
        return self._file.is_there

    async def _login(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await _page(send, 200, "")
            return
        form = await read_body(scope, receive, MAX_FORM_BYTES)
        key = parse_qs(form.decode("latin-1"), max_num_fields=8).get("key", [""])[0]
        shown = b"Bearer " + key.encode()
        known = self._ring.find(shown)
        if known is None:
            is_other = self._file.find(shown) is not None
            await _page(send, 403 if is_other else 401, _OTHER if is_other else "<p role=alert>That key is not known here.")
            return
        until = str(int(time.time()) + STAYS_S)
        told = f"{known.sha256.lower()}.{until}"
        cookie = f"{self._cookie}={told}.{self._signature(told)}; Max-Age={STAYS_S}{self._attributes}"
        headers = [(b"location", b"./"), (b"set-cookie", cookie.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _refuse(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        raise self._refusal(scope)

    def _refusal(self, scope: Scope) -> Refused:
        hint = "send `authorization: Bearer KEY`, or enter it at `/login`"
        return refusal(header(scope, b"authorization"), self._file, "see", "this page", hint)

    def _is_known(self, scope: Scope) -> bool:
        if self._ring.find(header(scope, b"authorization")) is not None:
            return True
        for part in header(scope, b"cookie").decode("latin-1").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self._cookie:
                told, _, signature = value.rpartition(".")
                is_ours = hmac.compare_digest(signature.encode(), self._signature(told).encode())
                digest, _, until = told.partition(".")
                return is_ours and int(until) > time.time() and digest in self._digests
        return False

    def _signature(self, told: str) -> str:
        return hmac.new(self._secret, told.encode(), hashlib.sha256).hexdigest()

    def _look(self) -> None:
        if self._file.has_changed(time.monotonic()):
            self._use()

    def _use(self) -> None:
        self._digests = frozenset(each.sha256.lower() for each in self._file.keys)
        self._ring = Ring({each.sha256: each for each in self._file.keys})


async def _page(send: Send, status: int, said: str) -> None:
    body = _PAGE.replace("<!--said-->", said).encode()
    headers = [*_HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
