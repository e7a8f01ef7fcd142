"""What a server answers, as data: rooms say it of their own routes, and one OpenAPI document and one page are made of it.

Bodies are the Structs that decode and encode them, so the document cannot say something else than the code does. It is made
when it is asked for, because a server's routes follow from the model it serves at that moment.

**Source**: OpenAPI Specification 3.1.1; JSON Schema 2020-12, which msgspec writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

import msgspec

from gyral import __version__
from gyral.http import JSON, AsgiApp, Receive, Refused, Scope, Send, allow, reply, routed

DOCUMENT, PAGE = "/openapi.json", "/docs"
BY_FRAMING = (400, 405, 414, 431, 503)
"""What every route may answer before it is looked at: HTTP that is none, another method, too long a head, too many at once."""
TOOK_BODY = (408, 413)
_REF = "#/components/schemas/{name}"


class Parts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error in four parts: what is wrong, where, why, and what to do next."""

    what: str
    where: str
    why: str
    hint: str


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of every answer that is an error."""

    error: Parts


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The server answers."""

    status: Literal["ok"]


class Answer(NamedTuple):
    """A body; None: none. `headers` are names that come with it."""

    body: Any
    media: str = JSON[1].decode()
    headers: tuple[str, ...] = ()


class Parameter(NamedTuple):
    """A part of the path, the query or the headers."""

    name: str
    where: Literal["path", "query", "header"]
    type: Any
    meaning: str


class Operation(NamedTuple):
    """One way to ask a server.

    Attributes
    ----------
    request : type of the body, None where there is none; `media` → type where it may come in several.
    answers : status → what comes with it.
    refusals : statuses of errors, beside those that every route has.
    error : type of their bodies.
    """

    method: Literal["get", "post"]
    path: str
    summary: str
    answers: Mapping[int, Answer | tuple[Answer, ...]]
    request: Any = None
    example: Any = None
    parameters: tuple[Parameter, ...] = ()
    refusals: tuple[int, ...] = ()
    error: Any = Refusal


HEALTH = Operation("get", "/healthz", "Whether the server answers", {200: Answer(Health)})
ITSELF = Operation("get", DOCUMENT, "This document", {200: Answer(dict[str, Any])})
FOR_PEOPLE = Operation("get", PAGE, "The same as a page", {200: Answer(str, "text/html; charset=utf-8")})


def document(title: str, operations: Iterable[Operation], of_another: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The OpenAPI 3.1 document of some operations.

    Parameters
    ----------
    of_another : the document of a process whose answers this server passes on.
    """
    listed = list(operations)
    types = [each for operation in listed for each in _types(operation)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    found = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method] = _told(operation, lambda: next(found))
    if of_another:
        other, components = _beside(of_another, components)
        paths = {**other, **paths}
    info = {"title": title, "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


class Documented:
    """Serves the document of a server, and a page of it; all else goes on to an application.

    Parameters
    ----------
    operations : of the server, asked each time.
    of_another : document of what answers through it, asked each time.
    """

    def __init__(
        self, title: str, operations: Callable[[], Iterable[Operation]],
        of_another: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._title, self._operations, self._of_another = title, operations, of_another

    @property
    def mounts(self) -> Mapping[str, AsgiApp]:
        """Where it belongs in a server."""
        return {DOCUMENT: self, PAGE: self}

    def before(self, app: AsgiApp) -> AsgiApp:
        """An application with the document beside it."""

        async def either(scope: Scope, receive: Receive, send: Send) -> None:
            await (self if scope.get("path") in (DOCUMENT, PAGE) else app)(scope, receive, send)

        return either

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await routed(self._route, scope, receive, send)

    async def _route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path not in (DOCUMENT, PAGE):
            raise Refused(404, f"there is nothing at `{path[:200]}`", hint=f"GET {DOCUMENT}, GET {PAGE}")
        allow(scope, "GET")
        told = document(self._title, [*self._operations(), HEALTH, ITSELF, FOR_PEOPLE], self._of_another())
        if path == DOCUMENT:
            await reply(send, 200, msgspec.json.encode(told), (b"cache-control", b"no-cache"))
            return
        from gyral.http.page import HEADERS, page

        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": page(told).encode()})


def _beside(other: Mapping[str, Any], ours: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Paths of another document, and its schemas with ours; of two that have one name and differ, its own gets another."""
    schemas = other["components"]["schemas"]
    renamed = {name: f"{name}_" for name, schema in schemas.items() if ours.get(name, schema) != schema}
    told = msgspec.json.encode((other["paths"], schemas))
    for name, new in renamed.items():
        told = told.replace(f'"{_REF.format(name=name)}"'.encode(), f'"{_REF.format(name=new)}"'.encode())
    paths, theirs = msgspec.json.decode(told)
    return paths, {**ours, **{renamed.get(name, name): schema for name, schema in theirs.items()}}


def _types(operation: Operation) -> list[Any]:
    """Every type of an operation, in the order in which `_told` takes their schemas."""
    found = [each.type for each in operation.parameters]
    found += list(_requests(operation).values())
    for _, answers in sorted(operation.answers.items()):
        found += [each.body for each in _several(answers) if each.body is not None]
    return [*found, operation.error]


def _requests(operation: Operation) -> dict[str, Any]:
    if operation.request is None:
        return {}
    return operation.request if isinstance(operation.request, dict) else {JSON[1].decode(): operation.request}


def _several(answers: Answer | tuple[Answer, ...]) -> tuple[Answer, ...]:
    return (answers,) if isinstance(answers, Answer) else answers


def _told(operation: Operation, schema: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {"summary": operation.summary}
    if operation.parameters:
        told["parameters"] = [_parameter(each, schema()) for each in operation.parameters]
    requests = _requests(operation)
    if requests:
        content: dict[str, Any] = {media: {"schema": schema()} for media in requests}
        if operation.example is not None:
            next(iter(content.values()))["example"] = operation.example
        told["requestBody"] = {"required": True, "content": content}
    responses: dict[str, Any] = {}
    for status, answers in sorted(operation.answers.items()):
        several = _several(answers)
        one: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if bodies := {each.media: {"schema": schema()} for each in several if each.body is not None}:
            one["content"] = bodies
        if names := [name for each in several for name in each.headers]:
            one["headers"] = {name: {"schema": {"type": "string"}} for name in names}
        responses[str(status)] = one
    error = {JSON[1].decode(): {"schema": schema()}}
    for status in sorted({*BY_FRAMING, *(TOOK_BODY if requests else ()), *operation.refusals}):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": error}
    return {**told, "responses": responses}


def _parameter(of: Parameter, schema: dict[str, Any]) -> dict[str, Any]:
    told = {"name": of.name, "in": of.where, "description": of.meaning, "required": of.where == "path"}
    return {**told, "schema": schema}
