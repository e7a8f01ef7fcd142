"""Keys that are guessed: an address may be wrong 20 times at once and once a second, then it gets 429 instead of an answer.

A guess of 256 random bits is hopeless without this; it bounds what guessing costs here, and it protects a key that somebody
thought up. Addresses behind one proxy are one address, so a key that was right since the first wrong one stays let in.
Memory: `MAX_ADDRESSES` of them, the one that was wrong longest ago goes; of IPv6 the first 64 bits count.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
from collections import OrderedDict

from gyral.http import Refused
from gyral.keys import Bucket
from gyral.serve.http1.request import Request

BURST, PER_S = 20.0, 1.0
MAX_ADDRESSES, MAX_GOOD = 4_096, 64


class Attempts:
    """Who was wrong lately. While nobody was, a request costs one look at an empty dict."""

    def __init__(self) -> None:
        self.wrong: OrderedDict[str, tuple[Bucket, set[bytes]]] = OrderedDict()
        self._salt = os.urandom(16)

    def check(self, request: Request, now: float) -> None:
        """Refuse who was wrong too often.

        Raises
        ------
        Refused : 429 with `retry-after`.
        """
        shown = _shown(request)
        found = self.wrong.get(_network(request)) if shown else None
        if found is None or not (wait := found[0].wait_s(now)) or self._hash(shown) in found[1]:
            return
        headers = ((b"retry-after", b"%d" % math.ceil(wait)),)
        raise Refused(429, "too many wrong keys came from this address", hint="wait, and check the key", headers=headers)

    def answered(self, request: Request, status: int, now: float) -> None:
        """Told what became of a request that may have shown a key."""
        shown = _shown(request)
        if not shown:
            return
        network = _network(request)
        if status == 401:
            bucket, good = self.wrong.get(network) or (Bucket(PER_S, BURST, now), set())
            bucket.wait_s(now)
            bucket.spend(1.0)
            self.wrong[network] = bucket, good
            self.wrong.move_to_end(network)
            if len(self.wrong) > MAX_ADDRESSES:
                self.wrong.popitem(last=False)
        elif status != 429 and (found := self.wrong.get(network)) is not None and len(found[1]) < MAX_GOOD:
            found[1].add(self._hash(shown))

    def _hash(self, shown: bytes) -> bytes:
        return hashlib.blake2b(shown, digest_size=16, key=self._salt).digest()


def _shown(request: Request) -> bytes:
    """What a request shows as its key; that of the login is in its body."""
    return request.header(b"authorization") or (b"login" if (request.method, request.raw_path) == ("POST", b"/login") else b"")


def _network(request: Request) -> str:
    host = (request.client or ("", 0))[0]
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False)) if ":" in host else host
