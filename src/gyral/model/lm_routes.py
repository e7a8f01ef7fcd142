"""How a language model is asked over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from gyral.errors import InputError
from gyral.model.family import Route, Told

MAX_TEXTS = 256


class Score(msgspec.Struct, frozen=True):
    """Body of `POST /v1/score`: texts, and what they are of."""

    texts: Annotated[list[Annotated[str, Meta(max_length=1 << 20)]], Meta(min_length=1, max_length=MAX_TEXTS)]
    object: Annotated[str, Meta(max_length=1024)] | None = None
    model: Annotated[str, Meta(max_length=256)] | None = None


class Scores(Protocol):
    """What scores texts."""

    def score(self, texts: list[str]) -> list[tuple[float, int]]: ...


def routes_of(model: Scores) -> dict[str, Route]:
    """`POST /v1/score`: bits that each text takes, and its bytes."""

    def score(request: Score) -> Told:
        if not any(request.texts):
            raise InputError("there is no text to score", hint='send `{"texts": ["…"]}`')
        told = model.score(request.texts)
        bits, sizes = [round(each[0], 3) for each in told], [each[1] for each in told]
        props: dict[str, Any] = {"bits": round(sum(bits), 3), "bytes": sum(sizes)}
        return Told({"bits": bits, "bytes": sizes}, "score", None, request.object, props)

    return {"/v1/score": Route(Score, score, '{"texts": ["What comes next?"]}')}
