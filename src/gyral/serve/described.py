"""The routes of a server that has a model, as data (`gyral.http.operations`); which there are follows from its family."""

from __future__ import annotations

from typing import Any

import msgspec

from gyral.http.operations import Answer, Operation, Parameter
from gyral.model.family import Route, Servable
from gyral.serve.app import Recommended
from gyral.serve.bundles.app import PATH as BUNDLES
from gyral.serve.bundles.wire import Manifest
from gyral.serve.openai import answers as openai
from gyral.serve.wire import Recommend

_VERSION = ("x-model-version",)


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers that were logged, and those that could not be."""

    appended: int
    dropped: int


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer of `GET /v1/model`; `card` is what was measured of it."""

    model: str
    family: str
    learned_until: str | None
    loaded_at: str
    slots: dict[str, str]
    impressions: Counted | None
    card: dict[str, Any]


def operations(model: Servable, has_bundles: bool) -> list[Operation]:
    """What a server with this model in its default slot answers under `/v1/`, without what takes events."""
    found = [_own(path, route) for path, route in model.routes.items()] or [_recommend()]
    if model.card.get("family") == "lm":
        found += openai.operations()
    slot = Parameter("slot", "query", str, "which of the models; `default`")
    found.append(Operation("get", "/v1/model", "Which model answers", {200: Answer(Model)}, None, None, (slot,), (401, 404)))
    found.append(Operation("get", "/metrics", "What the server did, for Prometheus", {200: Answer(str, "text/plain")}))
    return found + (_bundles() if has_bundles else [])


def _recommend() -> Operation:
    answers = {200: Answer(Recommended, headers=_VERSION)}
    example = {"subject": "17850", "k": 10, "context": {"country": "France"}}
    return Operation(
        "post", "/v1/recommend", "What a subject will meet next", answers, Recommend, example, refusals=(401, 404, 429, 500)
    )


def _own(path: str, route: Route) -> Operation:
    """A route that the family has."""
    summary = (route.request.__doc__ or path).partition(":")[2].strip() or f"`{path}` of this family"
    answers = {200: Answer(route.response, headers=_VERSION)}
    example = msgspec.json.decode(route.example)
    return Operation("post", path, summary.rstrip("."), answers, route.request, example, refusals=(401, 404, 429, 500))


def _bundles() -> list[Operation]:
    model = Parameter("model", "path", str, "`name` or `name@n`, of a model that is served or a variant of one")
    tier = Parameter("x-gyral-tier", "header", str, "class of the device: `phone`, `laptop`, `server`, or one's own")
    since = Parameter("from", "query", str, "`name@n` that the device has: files come with patches from it")
    known = Parameter("if-none-match", "header", str, "etag of what the device has")
    digest = Parameter("digest", "path", str, "of a file or a patch, from a manifest")
    part = Parameter("range", "header", str, "one range of bytes: `bytes=0-1048575`")
    manifest = {200: Answer(Manifest, headers=("etag",)), 304: Answer(None)}
    body = Answer(bytes, "application/octet-stream", ("etag", "accept-ranges"))
    files = {200: body, 206: body._replace(headers=(*body.headers, "content-range")), 304: Answer(None)}
    return [
        Operation(
            "get", f"{BUNDLES}/{{model}}", "What a device needs to run a model", manifest,
            parameters=(model, tier, since, known), refusals=(401, 404, 409),
        ),
        Operation(
            "get", f"{BUNDLES}/{{model}}/files/{{digest}}", "A file of it", files,
            parameters=(model, digest, part, known), refusals=(401, 404, 416),
        ),
    ]  # fmt: skip
