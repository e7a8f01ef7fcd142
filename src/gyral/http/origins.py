"""Which web pages may ask a server: a browser on this machine reaches 127.0.0.1, whatever page it shows.

Browsers say who asks. `origin` comes with all that changes something and with what is read across sites by a script,
`sec-fetch-site` with the rest (pictures, scripts, frames); a page of another site is refused, except that a link may lead to a
page here, in a window of its own and not in a frame. A name that its owner has pointed at 127.0.0.1 (DNS rebinding) makes that
owner's page one of the same site, so a `host` has to be an address, `localhost` or below it, or one of `listen.hosts`; beyond
this machine also a name without a dot, which machines of one network have, and which nobody can register.
Programs send neither header and are asked for a key instead.

**Source**: RFC 6454; W3C Fetch Metadata Request Headers; WHATWG Fetch, section 3.2 (CORS).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from gyral.http import Header, Refused

REMEMBERED, MAX_REMEMBERED_BYTES = 1_024, 300
"""Values of `host` that were looked at and are good, and how long one may be."""
ALLOWED_HEADERS = b"authorization, content-type, content-encoding, idempotency-key, traceparent, x-deadline-ms, x-gyral-tier"
EXPOSED_HEADERS = b"retry-after, x-gyral-cascade, x-model-version"
_READ = frozenset((b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"))


_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^\[\]:]*))(?::[0-9]*)?")
"""An address of IPv6 in brackets, or a name; and a port."""


class Origins:
    """Who may ask one server from a browser.

    Parameters
    ----------
    hosts : names under which this server is asked, beside those that nobody else can own; `*`: any.
    origins : pages of other sites that may ask and read answers: `https://shop.example`.
    is_near : it listens to this machine only, so no other machine's name is meant.
    """

    def __init__(self, hosts: Sequence[str] = (), origins: Sequence[str] = (), *, is_near: bool = False) -> None:
        self._is_near = is_near
        self._hosts = frozenset(each.lower().rstrip(".") for each in hosts)
        self._origins = frozenset(each.lower().rstrip("/").encode() for each in origins)
        self._good: set[bytes] = {b""}

    def check(self, method: str, headers: Iterable[Header]) -> bytes:
        """The page of another site that may read the answer; empty: none asks.

        Raises
        ------
        Refused : 403.
        """
        found: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _READ:
                found[name] = value
        host = found.get(b"host", b"")
        if host not in self._good:
            self._look(host)
        if len(found) < 2:
            return b""
        origin = found.get(b"origin")
        if origin is not None:
            if origin.lower() in self._origins:
                return origin
            if origin.lower().partition(b"://")[2] == host.lower() and host:
                return b""
            raise _refused(origin)
        if found.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") and not (
            method in ("GET", "HEAD")
            and found.get(b"sec-fetch-mode") == b"navigate"
            and found.get(b"sec-fetch-dest", b"document") == b"document"
        ):
            raise _refused(found[b"sec-fetch-site"])
        return b""

    def _look(self, host: bytes) -> None:
        found = _HOST.fullmatch(host.decode("latin-1").lower())
        name = (found[1] or found[2]).rstrip(".") if found is not None else host.decode("latin-1")
        is_own = name == "localhost" or name.endswith(".localhost") or _is_address(name)
        if not (is_own or self._hosts & {name, "*"} or (found is not None and "." not in name and not self._is_near)):
            hint = f'ask by its address, or set `listen.hosts = ["{name[:100]}"]`' if name.isprintable() else ""
            raise Refused(403, "this server is not asked by that name", why="another site may own the name", hint=hint)
        if len(host) <= MAX_REMEMBERED_BYTES:
            if len(self._good) >= REMEMBERED:
                self._good.clear()
            self._good.add(host)


def preflight() -> tuple[Header, ...]:
    """What a browser is told that asks whether a page may ask."""
    return (
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", ALLOWED_HEADERS),
        (b"access-control-max-age", b"600"),
    )


def readable_by(origin: bytes) -> bytes:
    """The header lines that let a page read an answer; `origin` is one that was set, so it holds no line end."""
    named = b"access-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\nvary: origin\r\n"
    return named % (origin, EXPOSED_HEADERS)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(by: bytes) -> Refused:
    hint = 'a page that may: `listen.origins = ["https://NAME"]`'
    return Refused(403, "a page of another site may not ask here", why=by.decode("latin-1")[:100], hint=hint)
