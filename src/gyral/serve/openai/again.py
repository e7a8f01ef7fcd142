"""Answers that are told again to questions like one that was answered, where that is asked for (`serve.alike`).

A request may be told another one's answer if nothing is drawn in it (`temperature` 0, one choice), it is no stream, and the
version that answers, the key of the client, the route and every field but the text of the question are the same: of a
conversation the text is what was said last, of a completion the prompt. How like two texts are is said by the vectors of the
model that answers, so a look costs one reading of the text (`POST /v1/embeddings` within the server), which is worth it where
answers are long and questions come again in other words.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gyral.errors import InputError
from gyral.http import Header
from gyral.serve.alike import Alike
from gyral.serve.engine import Part
from gyral.serve.openai.runner import Asks, Feed, Wanted
from gyral.serve.openai.wire import EMBEDDINGS, MAX_TOLD_CHARS, Body, ChatComplete, Complete

HEADER = b"x-gyral-alike"
VERSIONS = 4
"""Whose answers are kept at once."""
MAX_ANSWER_BYTES = 1 << 14
"""Of a question, what the log keeps."""


class _Kept(msgspec.Struct):
    """An answer, what the log keeps of it, and the request that it was given to."""

    body: bytes
    props: dict[str, Any]
    request_id: str


class Look(NamedTuple):
    """A question that was looked up.

    Attributes
    ----------
    kept : of the model version.
    version : whose vector it is.
    told : the answer to one like it; None: there is none.
    """

    kept: Alike
    version: str
    vector_D: np.ndarray
    key: bytes
    told: Part | None
    cosine: float

    @property
    def headers(self) -> tuple[Header, ...]:
        """What an answer says of where it comes from."""
        return ((HEADER, b"%.4f" % self.cosine),) if self.told is not None else ()

    def keep(self, answer: Part, request_id: str, version: str) -> None:
        """Have an answer that was made told again, unless another version made it than the one that read the question."""
        if self.told is None and version == self.version and len(answer.body) <= MAX_ANSWER_BYTES:
            self.kept.put(self.vector_D, msgspec.msgpack.encode(_Kept(answer.body, answer.props, request_id)), self.key)


class Again:
    """The answers of one server.

    Parameters
    ----------
    threshold : least cosine of two questions of which one is told the other's answer.
    asks : who has vectors of texts.
    """

    def __init__(self, threshold: float, asks: Asks) -> None:
        self._threshold, self._asks = threshold, asks
        self._of: OrderedDict[str, Alike] = OrderedDict()

    async def look(self, wanted: Wanted, request: Body, who: bytes) -> Look | None:
        """Look a request up; None where it is not of the kind that is told again.

        Parameters
        ----------
        who : the client's key.

        Raises
        ------
        Wrong : the question is not even read.
        """
        text = _text(request)
        if text is None:
            return None
        asked = msgspec.json.encode({"model": request.model, "input": text, "encoding_format": "base64"})
        feed = self._asks.ask(wanted._replace(path=EMBEDDINGS, body=asked, is_stream=False))
        try:
            parts = await feed.next()
        finally:
            feed.give_up()
        if not parts or parts[0].status != 200:  # a back end without vectors, or a text that has none: it is just answered
            return None
        vector_D = np.frombuffer(base64.b64decode(msgspec.json.decode(parts[0].body)["data"][0]["embedding"]), "<f4")
        version = feed.model
        kept = self._of.pop(version, None) or Alike(len(vector_D), self._threshold)
        self._of[version] = kept
        if len(self._of) > VERSIONS:
            self._of.popitem(last=False)
        key = _key(wanted.path, wanted.body, who)
        try:
            found = kept.get(vector_D, key)
        except InputError:  # no direction
            return None
        if found is None:
            return Look(kept, version, vector_D, key, None, 0.0)
        again = msgspec.msgpack.decode(found.answer, type=_Kept)
        of_this = {"prompt": text[:MAX_TOLD_CHARS], "tokens": 0, "alike": round(found.cosine, 4), "alike_to": again.request_id}
        return Look(kept, version, vector_D, key, Part(0, 200, again.body, True, again.props | of_this), found.cosine)


def feed_of(look: Look) -> Feed:
    """An answer that is there, as if it came."""
    feed = Feed(lambda _: None, 0, look.version)
    if look.told is not None:
        feed.put(look.told)
    return feed


def _text(request: Body) -> str | None:
    """The text of a question whose answer may be told again."""
    if not isinstance(request, Complete | ChatComplete) or request.temperature != 0 or request.stream or (request.n or 1) > 1:
        return None
    if isinstance(request, Complete):
        return request.prompt if isinstance(request.prompt, str) and not request.echo else None
    last = request.messages[-1]
    return last.content if last.role == "user" and isinstance(last.content, str) else None


def _key(path: str, body: bytes, who: bytes) -> bytes:
    """Of everything but the text, and of who asks; the parts cannot run into each other."""
    told = msgspec.json.decode(body)
    if "messages" in told:
        told["messages"][-1]["content"] = None
    else:
        told["prompt"] = None
    rest = msgspec.json.encode([path, told], order="sorted")
    return hashlib.blake2b(rest, key=hashlib.blake2b(who, digest_size=32).digest(), digest_size=16).digest()
