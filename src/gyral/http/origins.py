"""Which web pages may ask a server: a browser on this machine reaches 127.0.0.1, whatever page it shows.

Browsers say who asks. `origin` comes with all that changes something and with what is read across sites by a script,
`sec-fetch-site` with the rest (pictures, scripts, frames); a page of another site is refused, except that a link may lead to a
page here. A name that its owner has pointed at 127.0.0.1 (DNS rebinding) makes that owner's page one of the same site, so a
`host` has to be an address, a name without a dot, which nobody can register, below `localhost`, or one of `listen.hosts`.
Programs send neither header and are asked for a key instead.

**Source**: RFC 6454; W3C Fetch Metadata Request Headers; WHATWG Fetch, section 3.2 (CORS).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from gyral.http import Header, Refused

REMEMBERED, MAX_REMEMBERED_BYTES = 1_024, 300
"""Values of `host` that were looked at and are good, and how long one may be."""
ALLOWED_HEADERS = b"authorization, content-type, content-encoding, idempotency-key, traceparent, x-deadline-ms, x-gyral-tier"
_READ = frozenset((b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode"))


class Origins:
    """Who may ask one server from a browser.

    Parameters
    ----------
    hosts : names under which this server is asked, beside those that nobody else can own; `*`: any.
    origins : pages of other sites that may ask and read answers: `https://shop.example`.
    """

    def __init__(self, hosts: Sequence[str] = (), origins: Sequence[str] = ()) -> None:
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
            method in ("GET", "HEAD") and found.get(b"sec-fetch-mode") == b"navigate"
        ):
            raise _refused(found[b"sec-fetch-site"])
        return b""

    def _look(self, host: bytes) -> None:
        name = host.decode("latin-1").lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.rpartition(":")[2].isdigit():
            name = name.rpartition(":")[0]
        name = name.rstrip(".")
        if not (self._hosts & {name, "*"} or "." not in name or name.endswith(".localhost") or _is_address(name)):
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
    return b"access-control-allow-origin: %b\r\nvary: origin\r\n" % origin


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(by: bytes) -> Refused:
    hint = 'a page that may: `listen.origins = ["https://NAME"]`'
    return Refused(403, "a page of another site may not ask here", why=by.decode("latin-1")[:100], hint=hint)
