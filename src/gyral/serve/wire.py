"""What is asked of a recommender over HTTP, by whoever answers it: this process, or a worker of its own."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta

from gyral.http import Refused
from gyral.model.family import Item

RECOMMEND = "/v1/recommend"
MODEL = "/v1/model"
POPULARITY = "popularity"
"""A slot that is always there: the baseline of the default slot's model."""
EXAMPLE = '{"subject": "17850", "k": 10, "context": {"country": "France"}}'


class Context(msgspec.Struct):
    """What is known at the moment of the request; anything else in it is ignored."""

    country: Annotated[str, Meta(max_length=256)] | None = None
    recent: Annotated[list[Annotated[str, Meta(max_length=1024)]], Meta(max_length=1_000)] = []


class Recommend(msgspec.Struct):
    """Body of `POST /v1/recommend`: what a subject will meet next."""

    subject: Annotated[str, Meta(max_length=1024)]
    k: Annotated[int, Meta(ge=1)] = 10
    context: Context | None = None
    model: Annotated[str, Meta(max_length=256)] | None = None


class Recommended(msgspec.Struct):
    """Its answer."""

    request_id: str
    model: str
    subject: str
    known: bool
    items: list[Item]


def number_of(value: bytes, default: float, name: str) -> float:
    """A positive number of a header; `default` where it was not sent, and inf where that is 0.

    Raises
    ------
    Refused : 400.
    """
    if not value:
        return default or math.inf
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise Refused(400, f"`{name}` is `{value[:50].decode('latin-1')}`", hint="a number above 0")
    return number
