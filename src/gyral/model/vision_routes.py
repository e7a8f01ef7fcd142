"""How a model of pictures is asked over HTTP.

New pictures may be shown to a server (`POST /v1/pictures`): from then on they are found like those that were learned from,
until the model is swapped. So what came a moment ago can be found without having been learned.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from gyral.errors import InputError
from gyral.model.family import Route, Told
from gyral.model.naming import margin, shares_of
from gyral.model.retrieving.index import Index

LABEL = "/v1/label"
MAX_SHOWN = 100_000
"""Pictures that a server keeps beside those of the model."""
MAX_PICTURES, MAX_TEXTS = 256, 256
"""In one request."""


class Search(msgspec.Struct, frozen=True):
    """Body of `POST /v1/search`: words in any language, or a picture in base64; among all pictures, those of the model, or
    those shown since."""

    text: Annotated[str, Meta(max_length=4_096)] = ""
    picture: str = ""
    k: Annotated[int, Meta(ge=1, le=1_000)] = 10
    language: Annotated[str, Meta(max_length=64)] = ""
    among: Literal["all", "learned", "shown"] = "all"
    subject: Annotated[str, Meta(max_length=1024)] | None = None
    model: Annotated[str, Meta(max_length=256)] | None = None


class Label(msgspec.Struct, frozen=True):
    """Body of `POST /v1/label`: a picture in base64, and what it may be; without labels, all names that the model knows."""

    picture: Annotated[str, Meta(min_length=1)]
    labels: Annotated[list[Annotated[str, Meta(min_length=1, max_length=4_096)]], Meta(max_length=MAX_TEXTS)] = []
    k: Annotated[int, Meta(ge=1, le=1_000)] = 5
    language: Annotated[str, Meta(max_length=64)] = "en"
    subject: Annotated[str, Meta(max_length=1024)] | None = None
    model: Annotated[str, Meta(max_length=256)] | None = None


class Shown(msgspec.Struct, frozen=True):
    """A picture: its name, and its file in base64."""

    object: Annotated[str, Meta(min_length=1, max_length=1024)]
    raw: str


class Pictures(msgspec.Struct, frozen=True):
    """Body of `POST /v1/pictures`."""

    pictures: Annotated[list[Shown], Meta(min_length=1, max_length=MAX_PICTURES)]
    model: Annotated[str, Meta(max_length=256)] | None = None


class Embed(msgspec.Struct, frozen=True):
    """Body of `POST /v1/embed`: texts, or pictures in base64."""

    texts: Annotated[list[Annotated[str, Meta(max_length=4_096)]], Meta(max_length=MAX_TEXTS)] = []
    pictures: Annotated[list[str], Meta(max_length=MAX_PICTURES)] = []
    model: Annotated[str, Meta(max_length=256)] | None = None


class Hit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture that was found; `title` where it has a name in the language asked for."""

    object: str
    score: float
    title: str = ""


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer of a search, best first. `recall`: the share of the nearest learned ones that is found, as it was measured."""

    request_id: str
    model: str
    items: list[Hit]
    recall: float = 1.0


class Likely(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A label, how near it is, and its share among all."""

    label: str
    score: float
    share: float


class Labelled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels of a picture, best first."""

    request_id: str
    model: str
    labels: list[Likely]


_LABEL = '{"picture": "base64…", "labels": ["a hedgehog", "a kite"]}'


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many pictures were shown by now."""

    request_id: str
    model: str
    shown: int


class Embedded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Vectors of length one, of what was sent."""

    request_id: str
    model: str
    texts: list[list[float]] = []
    pictures: list[list[float]] = []


class Encoder(Protocol):
    """Makes vectors of length one, and has those of what it learned."""

    gallery: np.ndarray
    scale: float

    @property
    def objects(self) -> Sequence[str]: ...

    def embed_texts(self, texts: list[str]) -> np.ndarray: ...

    def embed_images(self, raws: list[bytes]) -> np.ndarray: ...

    def name_of(self, place: int, language: str) -> str: ...

    def named(self, language: str) -> tuple[list[str], np.ndarray]: ...


class Finder:
    """Finds pictures: those that the model learned, and those that were shown since.

    Parameters
    ----------
    best : places of the best of some scores, best first.
    index : holds what was learned, where that is large.
    """

    def __init__(self, model: Encoder, best: Callable[[np.ndarray, int], list[int]], index: Index | None) -> None:
        self._model, self._best, self._index = model, best, index
        self._shown: dict[str, int] = {}
        self._vectors = np.zeros((0, model.gallery.shape[1]), np.float32)

    def show(self, request: Pictures) -> Told:
        """Keep pictures; one of a name that was shown before takes its place."""
        if len(self._shown) + len(request.pictures) > MAX_SHOWN:
            hint = "train again: what was learned from needs no showing"
            raise InputError(f"no more than {MAX_SHOWN:,} pictures can be shown", hint=hint)
        made = self._model.embed_images([decoded(each.raw) for each in request.pictures])
        for each, vector in zip(request.pictures, made, strict=True):
            if each.object in self._shown:
                self._vectors[self._shown[each.object]] = vector
            else:
                self._shown[each.object] = len(self._vectors)
                self._vectors = np.concatenate([self._vectors, vector[None]])
        objects = [each.object for each in request.pictures]
        return Told({"shown": len(self._shown)}, "shown", None, None, {"objects": objects})

    def search(self, requests: Sequence[Search]) -> list[Told]:
        """Some searches, for which words and pictures go through the net once."""
        if any(bool(each.text) == bool(each.picture) for each in requests):
            hint = 'send `{"text": "a hedgehog"}`, or `{"picture": "base64…"}`'
            raise InputError("a search is for words or for a picture", hint=hint)
        raws = [decoded(each.picture) for each in requests if each.picture]
        words = [each.text for each in requests if each.text]
        texts = iter(self._model.embed_texts(words) if words else ())
        pictures = iter(self._model.embed_images(raws) if raws else ())
        vectors_QE = np.stack([next(texts) if each.text else next(pictures) for each in requests])
        wants_learned = [each.among != "shown" for each in requests]
        hits = self._learned(vectors_QE[wants_learned], max(each.k for each in requests))
        return [
            self._found(each, vector, next(hits)[: each.k] if each.among != "shown" else [])
            for each, vector in zip(requests, vectors_QE, strict=True)
        ]

    def _learned(self, vectors_QE: np.ndarray, k: int) -> Iterator[list[tuple[float, int]]]:
        """Score and place of the k nearest pictures that the model has learned."""
        if self._index is None:
            for vector in vectors_QE:
                scores = self._model.gallery @ vector
                yield [(float(scores[at]), at) for at in self._best(scores, k)]
            return
        near = self._index.search(vectors_QE, k)
        for places, row in zip(near.ids_Bk.tolist(), near.scores_Bk.tolist(), strict=True):
            yield [(score, at) for score, at in zip(row, places, strict=True) if at >= 0]

    def _found(self, request: Search, vector: np.ndarray, near: list[tuple[float, int]]) -> Told:
        """The answer of one search; `near` are the learned pictures, where it is for any."""
        items = [_hit(self._model, score, at, request.language) for score, at in near]
        if self._shown and request.among != "learned":
            names, scores = list(self._shown), self._vectors @ vector
            items += [{"object": names[at], "score": float(scores[at])} for at in self._best(scores, request.k)]
            items = sorted(items, key=lambda item: -item["score"])[: request.k]
        objects = [item["object"] for item in items]
        props = {"query": request.text, "language": request.language, "k": request.k, "items": objects}
        body: dict[str, Any] = {"items": items}
        if self._index is not None and request.among != "shown" and self._index.card["recall"] != 1:
            body["recall"] = self._index.card["recall"]
        return Told(body, "search", request.subject, objects[0] if objects else None, props)


def routes_of(model: Encoder, best: Callable[[np.ndarray, int], list[int]], index: Index | None = None) -> dict[str, Route]:
    """Routes of one loaded model; `best` ranks scores, `index` holds the gallery where that is large."""
    finder = Finder(model, best, index)

    def labels(requests: Sequence[Label]) -> list[Told]:
        pictures = model.embed_images([decoded(each.picture) for each in requests])
        return [_labelled(model, best, each, vector) for each, vector in zip(requests, pictures, strict=True)]

    return {
        "/v1/search": _together(Search, finder.search, '{"text": "a hedgehog", "k": 5}', Found, is_pure=False),
        LABEL: _together(Label, labels, _LABEL, Labelled),
        "/v1/pictures": Route(Pictures, finder.show, '{"pictures": [{"object": "a.png", "raw": "base64…"}]}', response=Seen),
        "/v1/embed": _together(Embed, partial(_embedded, model), '{"texts": ["a hedgehog"]}', Embedded),
    }


def _together(
    request: type[msgspec.Struct], answer: Callable[[list[Any]], list[Told]], example: str, response: Any, is_pure: bool = True
) -> Route:
    """A route of which several requests are answered at once."""
    return Route(request, lambda each: answer([each])[0], example, is_pure, answer, response)


def _labelled(model: Encoder, best: Callable[[np.ndarray, int], list[int]], request: Label, vector: np.ndarray) -> Told:
    names = request.labels
    if names:
        vectors = model.embed_texts(names)
    else:
        names, vectors = model.named(request.language)
    scores = vectors @ vector
    shares = shares_of(scores, model.scale)
    told = [
        {"label": names[at], "score": round(float(scores[at]), 6), "share": round(float(shares[at]), 6)}
        for at in best(scores, request.k)
    ]
    props = {"labels": [each["label"] for each in told], "k": request.k, "language": request.language}
    sure = None if request.labels else float(margin(shares))  # among names of a client's own it means something else
    return Told({"labels": told}, "label", request.subject, None, props, sure)


def _embedded(model: Encoder, requests: Sequence[Embed]) -> list[Told]:
    if any(not each.texts and not each.pictures for each in requests):
        raise InputError("there is nothing to embed", hint='send `{"texts": ["a hedgehog"]}`')
    raws = [[decoded(each) for each in request.pictures] for request in requests]
    texts = iter(_vectors(model.embed_texts, [text for request in requests for text in request.texts]))
    pictures = iter(_vectors(model.embed_images, [raw for each in raws for raw in each]))
    told = []
    for request in requests:
        body = {"texts": [next(texts) for _ in request.texts], "pictures": [next(pictures) for _ in request.pictures]}
        props = {name: len(each) for name, each in body.items()}
        told.append(Told({name: each for name, each in body.items() if each}, "embedding", None, None, props))
    return told


def _hit(model: Encoder, score: float, place: int, language: str) -> dict[str, Any]:
    title = model.name_of(place, language)
    item = {"object": model.objects[place], "score": score}
    return {**item, "title": title} if title else item


def _vectors(embed: Callable[[list[Any]], np.ndarray], of: list[Any]) -> list[list[float]]:
    vectors: list[list[float]] = embed(of).round(6).tolist() if of else []
    return vectors


def decoded(text: str) -> bytes:
    """Bytes of base64.

    Raises
    ------
    InputError : it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("a picture is not base64", why=str(error), hint="send the file's bytes in base64") from None
