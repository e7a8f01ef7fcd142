"""The routes of a server that has a model, as data (`gyral.http.operations`); which there are follows from its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gyral.http.operations import Answer, Operation, Parameter
from gyral.model.family import Route, Servable
from gyral.serve.about import Model
from gyral.serve.bundles.app import PATH as BUNDLES
from gyral.serve.bundles.wire import Manifest
from gyral.serve.openai import answers as openai
from gyral.serve.wire import EXAMPLE, MODEL, RECOMMEND, Recommend, Recommended

_VERSION = ("x-model-version",)


def asked(model: Servable) -> list[Operation]:
    """How this model is asked where it answers in the server's own process."""
    found = [_posted(path, each.request, each.response, each.example) for path, each in model.routes.items()]
    found = found or [_posted(RECOMMEND, Recommend, Recommended, EXAMPLE)]
    return found + (openai.operations() if model.card.get("family") == "lm" else [])


def by_workers(routes: Mapping[str, Route]) -> list[Operation]:
    """How a model is asked whose workers say it: there requests wait, so they may say until when, and for which quality."""
    wish = (
        Parameter("x-deadline-ms", "header", str, "milliseconds after which the answer is of no use"),
        Parameter("x-min-quality", "header", str, "least quality of the variant that answers, 1 that of the model"),
    )
    found = [_posted(path, each.request, each.response, each.example) for path, each in routes.items()]
    return [each._replace(parameters=wish, refusals=(*each.refusals, 502, 504)) for each in found]


def beside(has_bundles: bool) -> list[Operation]:
    """What a server answers beside that under `/v1/`, without what takes events."""
    slot = Parameter("slot", "query", str, "which of the models; `default`")
    found = [
        Operation("get", MODEL, "Which model answers", {200: Answer(Model)}, None, None, (slot,), (401, 403, 404)),
        Operation("get", "/metrics", "What the server did, for Prometheus", {200: Answer(str, "text/plain")}),
    ]
    return found + (_bundles() if has_bundles else [])


def _posted(path: str, request: type[msgspec.Struct], response: Any, example: str) -> Operation:
    summary = (request.__doc__ or path).partition(":")[2].strip().rstrip(".") or f"`{path}` of this family"
    answers = {200: Answer(response, headers=_VERSION)}
    told = msgspec.json.decode(example)
    return Operation("post", path, summary[0].upper() + summary[1:], answers, request, told, refusals=(401, 403, 404, 429, 500))


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
            parameters=(model, tier, since, known), refusals=(401, 403, 404, 409),
        ),
        Operation(
            "get", f"{BUNDLES}/{{model}}/files/{{digest}}", "A file of it", files,
            parameters=(model, digest, part, known), refusals=(401, 403, 404, 416),
        ),
    ]  # fmt: skip
