"""Who may have a link: a listener and those who connect prove to each other that they belong to one job.

Both sides show by HMAC over fresh nonces that they hold the job's secret, before the first frame; neither sends it, and a
recorded proof is of no use later. Strangers are closed without a word, each in a thread of its own so that one who says nothing
holds nobody up. The address is 127.0.0.1 unless told otherwise.
"""

from __future__ import annotations

import hashlib
import hmac
import queue
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from gyral.engine.links import ENDED, TICK_S, Link, LinkLost

LOOPBACK = "127.0.0.1"
MAX_HELLO_BYTES = 1 << 12
HANDSHAKE_S = 10.0
MAX_HANDSHAKES = 64
"""Unproven connections at once; more are closed unheard."""
_MAGIC = b"gyral\x00\x01\n"
_NONCE = 32


class Listener:
    """Takes connections of those who know the secret; strangers are closed without a word.

    Parameters
    ----------
    bound : a socket that listens already, such as one a parent keeps over restarts; it stays open.
    on_link : called, from a thread, with each link; without it `take` hands them out.
    """

    def __init__(
        self, secret: bytes, *, host: str = LOOPBACK, port: int = 0, bound: socket.socket | None = None,
        on_link: Callable[[Link], None] | None = None,
    ) -> None:  # fmt: skip
        self._secret = secret
        self._links: queue.Queue[Link] = queue.Queue()
        self._deliver = on_link or self._links.put
        self._socket = bound or socket.create_server((host, port), backlog=128)
        self._is_own = bound is None
        self._socket.setblocking(False)
        self.host, self.port = self._socket.getsockname()[:2]
        self._slots = threading.Semaphore(MAX_HANDSHAKES)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="listener", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Link | None:
        """The next link, or None when none comes in this time."""
        try:
            return self._links.get(timeout=max(timeout_s, 0.0)) if timeout_s > 0 else self._links.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Take no more; links that were handed out stay."""
        self._is_closed.set()
        self._thread.join(timeout=2.0)
        if self._is_own:
            self._socket.close()
        while (link := self.take(0)) is not None:
            link.close()

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            try:
                connection, _ = self._socket.accept()
            except OSError:
                continue
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._admit, args=[connection], name="handshake", daemon=True).start()

    def _admit(self, connection: socket.socket) -> None:
        try:
            link = _admitted(connection, self._secret)
        except (OSError, LinkLost, struct.error):
            connection.close()
        else:
            self._deliver(link)
        finally:
            self._slots.release()


def connect(
    address: tuple[str, int], secret: bytes, hello: bytes = b"", *, peer: str, timeout_s: float = HANDSHAKE_S,
    is_over: Callable[[], str] = lambda: "",
) -> Link:  # fmt: skip
    """Connect and prove ourselves; the other side must prove itself as well.

    Parameters
    ----------
    is_over : asked every `TICK_S`; a reason ends the wait.

    Raises
    ------
    LinkLost : nobody listens there, or one who does not know the secret.
    """
    try:
        connection = socket.create_connection(address, timeout_s)
    except OSError as error:
        raise LinkLost(f"{peer} takes no connection", [peer], why=str(error), where="{}:{}".format(*address)) from None
    try:
        end = time.monotonic() + timeout_s
        connection.settimeout(TICK_S)
        start = _exactly(connection, len(_MAGIC) + _NONCE, end, is_over)
        if start[: len(_MAGIC)] != _MAGIC:
            raise OSError("it speaks something else, or another version")
        theirs, ours = start[len(_MAGIC) :], secrets.token_bytes(_NONCE)
        connection.sendall(ours + _proof(secret, b"c", theirs, ours, hello) + struct.pack("<I", len(hello)) + hello)
        if not hmac.compare_digest(_exactly(connection, _NONCE, end, is_over), _proof(secret, b"s", theirs, ours, hello)):
            raise OSError("it does not know the secret of this job")
        return Link(connection, peer)
    except OSError as error:
        connection.close()
        raise LinkLost(f"{peer} was not joined", [peer], why=str(error), where="{}:{}".format(*address)) from None


def _admitted(connection: socket.socket, secret: bytes) -> Link:
    end = time.monotonic() + HANDSHAKE_S
    connection.settimeout(HANDSHAKE_S)
    ours = secrets.token_bytes(_NONCE)
    connection.sendall(_MAGIC + ours)
    theirs, proof = _exactly(connection, _NONCE, end), _exactly(connection, _NONCE, end)
    (length,) = struct.unpack("<I", _exactly(connection, 4, end))
    if length > MAX_HELLO_BYTES:
        raise OSError("a hello too long")
    hello = _exactly(connection, length, end)
    if not hmac.compare_digest(proof, _proof(secret, b"c", ours, theirs, hello)):
        raise OSError("it does not know the secret of this job")
    connection.sendall(_proof(secret, b"s", ours, theirs, hello))
    return Link(connection, "{}:{}".format(*connection.getpeername()[:2]), hello)


def _proof(secret: bytes, side: bytes, server: bytes, client: bytes, hello: bytes) -> bytes:
    return hmac.new(secret, side + server + client + hello, hashlib.sha256).digest()


def _exactly(connection: socket.socket, num: int, end: float, is_over: Callable[[], str] = lambda: "") -> bytes:
    found = bytearray()
    while len(found) < num:
        if time.monotonic() > end:
            raise OSError("it said nothing in time")
        if reason := is_over():
            raise OSError(reason)
        try:
            more = connection.recv(num - len(found))
        except TimeoutError:
            continue
        if not more:
            raise OSError(ENDED)
        found += more
    return bytes(found)
