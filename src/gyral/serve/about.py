"""What `GET /v1/model` says of a model, whoever answers: the process that has it, or a gateway that asked its workers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec
from msgspec import UNSET, UnsetType

from gyral.errors import ServeError
from gyral.http import Refused, Scope
from gyral.serve.engine import Ask
from gyral.serve.feedback import Impressions
from gyral.serve.pool import Pool
from gyral.serve.slots import DEFAULT
from gyral.serve.wire import MODEL

ASK_S = 60.0


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers that were logged, and those that could not be."""

    appended: int
    dropped: int


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer of `GET /v1/model`; `card` is what was measured of it. Where workers answer, also who they are, which variants
    there are, which of them was chosen and why, how asking a small one first goes, and how a trial stands."""

    model: str
    family: str
    learned_until: str | None
    loaded_at: str
    slots: dict[str, str]
    impressions: Counted | None
    card: dict[str, Any]
    variants: dict[str, str] | UnsetType = UNSET
    workers: list[dict[str, Any]] | UnsetType = UNSET
    chosen: dict[str, str] | UnsetType = UNSET
    cascade: dict[str, dict[str, Any]] | UnsetType = UNSET
    trial: dict[str, Any] | UnsetType | None = UNSET


class About(msgspec.Struct, frozen=True):
    """What a worker tells a gateway of one model.

    Attributes
    ----------
    routes : path → an example of a body, and whether an answer may be told again.
    recommends : the server's own route asks it.
    document : of its routes, as `gyral.http.operations.document` makes it; a back end of another kind has none.
    """

    card: dict[str, Any]
    routes: dict[str, tuple[str, bool]]
    recommends: bool
    document: dict[str, Any] = {}


async def told_by(pool: Pool, id: int, variant: str) -> About:
    """What a worker says of a model that it holds.

    Raises
    ------
    ServeError : it does not say.
    """
    part = await pool.answer(Ask(id, MODEL, b"{}", ASK_S, variant=variant))
    if part.status != 200:
        raise ServeError("the workers do not say what they answer with", why=part.body.decode("utf-8", "replace")[:500])
    return msgspec.json.decode(part.body, type=About)


def asked_slot(scope: Scope) -> str:
    """The slot that a request for a description is about."""
    query: bytes = scope.get("query_string", b"")
    return parse_qs(query.decode("latin-1")).get("slot", [DEFAULT])[0]


def no_such(slot: str, slots: Mapping[str, str]) -> Refused:
    """The error of a request that names a slot which is not here."""
    listed = ", ".join(f"`{name}`" for name in slots)
    return Refused(404, f"there is no model `{slot[:200]}` here", hint=f"leave `model` out, or use one of {listed}")


def described(
    name: str, card: Mapping[str, Any], loaded_at: float, slots: dict[str, str], impressions: Impressions | None, **more: Any
) -> bytes:
    """The answer.

    Parameters
    ----------
    loaded_at : when it began to answer, seconds since the epoch.
    more : further fields of `Model`.
    """
    at = datetime.fromtimestamp(loaded_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    counted = Counted(impressions.appended, impressions.dropped) if impressions is not None else None
    told = Model(name, card["family"], card.get("learned_until"), at, slots, counted, dict(card), **more)
    return msgspec.json.encode(told)
