"""Which requests are requests: what llhttp lets pass and this server does not.

llhttp is strict about bytes: names, values, folded lines, bare line ends, two lengths, a length beside `chunked`. It does not
ask whether the message makes sense, and these are the gaps through which a request is smuggled past a proxy or means two
things: HTTP/0.9 and 2.0 in a line of HTTP/1, no host or two, two keys or two origins, a coding other than `chunked`,
`chunked` in HTTP/1.0, a target that is no path. A request that can be read in two ways is refused and its connection
closed, never repaired.

**Source**: RFC 9112, sections 3, 6 and 9; RFC 9110, sections 4.2, 5.3, 7.2 and 10.1.1.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

from gyral.http import Header, Refused

_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)
_ONCE = frozenset((b"authorization", b"content-encoding", b"content-type", b"origin", b"sec-fetch-mode", b"sec-fetch-site"))
"""Two of one are two requests: who stands before this server may have looked at the other one."""
_READ = _ONCE | {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"}


class Head(msgspec.Struct):
    """What a server has to know of a head. `length` is -1 where the body is chunked."""

    path: bytes
    query: bytes
    keep_alive: bool
    length: int
    expects: bool


def judge(method: bytes, target: bytes, version: str, headers: list[Header]) -> Head:
    """Read the head of a request.

    Parameters
    ----------
    headers : names in lower case.

    Raises
    ------
    Refused : 400, 417, 501 or 505.
    """
    if version != "1.1" and version != "1.0":
        raise Refused(505, f"HTTP/{version} is not spoken here", hint="use HTTP/1.1")
    host: bytes | None = None
    length: int | None = None
    connection = b""
    is_chunked = expects = False
    seen: list[bytes] = []
    for name, value in headers:
        if name not in _READ:
            continue
        if name in _ONCE:
            if name in seen:
                raise Refused(400, f"there are two `{name.decode()}`", hint="send one")
            seen.append(name)
        elif name == b"host":
            if host is not None or not _HOST.fullmatch(value):
                raise Refused(400, "the request names no host, or two", hint="send one `host: NAME[:PORT]`")
            host = value
        elif name == b"connection":
            connection += b"," + value.lower()
        elif name == b"content-length":
            if length is not None or not value.isdigit():
                raise Refused(400, "`content-length` is no number, or there are two", hint="send one")
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise Refused(501, "this transfer coding is not known here", hint="`transfer-encoding: chunked`, or none")
            is_chunked = True
        elif value.lower() == b"100-continue":
            expects = True
        else:
            raise Refused(417, "only `expect: 100-continue` can be met", hint="leave `expect` out")
    if host is None and version == "1.1":
        raise Refused(400, "the request names no host", hint="send `host: NAME`")
    if is_chunked and (length is not None or version == "1.0"):
        raise Refused(400, "the end of the body can be read in two ways", hint="HTTP/1.1 with a length or chunks, never both")
    if not target.startswith(b"/") and (absolute := _ABSOLUTE.match(target)) is not None:
        target = _relative(absolute, headers)
    path, query = _split(method, target)
    return Head(path, query, _stays(version, connection), -1 if is_chunked else length or 0, expects and version == "1.1")


def decoded(path: bytes) -> str:
    """A path as text, `%XX` undone; what is no UTF-8 becomes U+FFFD."""
    text = path.decode("ascii", "replace")
    return unquote(text) if "%" in text else text


def _relative(absolute: re.Match[bytes], headers: list[Header]) -> bytes:
    """What follows the host of an absolute target, which counts in place of the header `host`."""
    host = absolute[1]
    if not host or not _HOST.fullmatch(host):
        raise Refused(400, "the target names no host", hint="ask for a path")
    headers[:] = [each for each in headers if each[0] != b"host"] + [(b"host", host)]
    rest = absolute.string[absolute.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _split(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Path and query."""
    if method == b"CONNECT":
        raise Refused(501, "this server is no proxy", hint="ask it for a path")
    if not target.startswith(b"/") and (target != b"*" or method != b"OPTIONS"):
        raise Refused(400, "the target is no path", hint="it starts with `/`")
    if b"#" in target:
        raise Refused(400, "the target has a fragment", hint="leave `#` and what follows out")
    path, _, query = target.partition(b"?")
    return path, query


def _stays(version: str, connection: bytes) -> bool:
    if not connection:
        return version == "1.1"
    tokens = {token.strip() for token in connection.split(b",")}
    return b"close" not in tokens and (version == "1.1" or b"keep-alive" in tokens)
