"""How a language model is asked over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from gyral.errors import InputError
from gyral.model.family import Route, Told

MAX_TEXTS = 256
KEPT_CHARS = 4_096
"""Of a prompt and its completion, what the log keeps."""


class Score(msgspec.Struct, frozen=True):
    """Body of `POST /v1/score`: texts, and what they are of."""

    texts: Annotated[list[Annotated[str, Meta(max_length=1 << 20)]], Meta(min_length=1, max_length=MAX_TEXTS)]
    object: Annotated[str, Meta(max_length=1024)] | None = None
    model: Annotated[str, Meta(max_length=256)] | None = None


class Complete(msgspec.Struct, frozen=True):
    """Body of `POST /v1/complete`."""

    prompt: Annotated[str, Meta(max_length=1 << 20)] = ""
    max_tokens: Annotated[int, Meta(ge=0, le=4_096)] = 128
    temperature: Annotated[float, Meta(ge=0, le=10)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    stop: Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(max_length=8)] = []
    seed: int = 0
    model: Annotated[str, Meta(max_length=256)] | None = None


class Scored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Its answer: bits that each text takes, and bytes that it has."""

    request_id: str
    model: str
    bits: list[float]
    bytes: list[int]


class Completed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Its answer: the text, the tokens it took, and what ended it."""

    request_id: str
    model: str
    text: str
    tokens: int
    ended_by: Literal["end", "stop", "length"]


class Answers(Protocol):
    """What scores texts and goes on writing them: `gyral.model.lm.Reader`."""

    def score(self, texts: Sequence[str]) -> Any: ...

    def complete(
        self, prompt: str, max_tokens: int, temperature: float, top_p: float, stop: Sequence[str], seed: int
    ) -> Any: ...


def routes_of(model: Answers) -> dict[str, Route]:
    """`POST /v1/score`: bits that each text takes, and its bytes; `POST /v1/complete`: what comes next."""

    def score(request: Score) -> Told:
        if not any(request.texts):
            raise InputError("there is no text to score", hint='send `{"texts": ["…"]}`')
        told = model.score(request.texts)
        bits, sizes = [round(float(each), 3) for each in told.bits], told.size_bytes.tolist()
        props: dict[str, Any] = {"bits": round(sum(bits), 3), "bytes": sum(sizes), "prompt_tokens": told.num_tokens}
        return Told({"bits": bits, "bytes": sizes}, "score", None, request.object, props)

    def complete(request: Complete) -> Told:
        made = model.complete(
            request.prompt, request.max_tokens, request.temperature, request.top_p, request.stop, request.seed
        )
        body = {"text": made.text, "tokens": len(made.tokens), "ended_by": made.ended_by}
        props = {"prompt": request.prompt[:KEPT_CHARS], "text": made.text[:KEPT_CHARS], "seed": request.seed}
        props |= {"tokens": len(made.tokens), "prompt_tokens": made.num_read}
        return Told(body, "completion", None, None, props)

    return {
        "/v1/score": Route(Score, score, '{"texts": ["What comes next?"]}', is_pure=True, response=Scored),
        "/v1/complete": Route(Complete, complete, '{"prompt": "What comes", "max_tokens": 32}', response=Completed),
    }
