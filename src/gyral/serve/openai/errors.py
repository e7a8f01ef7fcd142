"""Errors in OpenAI's form, with the four parts of gyral's inside: its client shows `message`, people read the rest."""

from __future__ import annotations

from typing import Any

import msgspec

from gyral.http import Refused
from gyral.serve.openai.wire import Wrong

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}


def body_of(refused: Refused, where: str) -> bytes:
    """The error of a request that was refused."""
    param, code = (refused.param, refused.code) if isinstance(refused, Wrong) else (None, None)
    return _encoded(refused.status, (refused.what, where, refused.why, refused.hint), param, code)


def as_openai(status: int, body: bytes, where: str) -> bytes:
    """An error that an engine or a pool told, in OpenAI's form; one that has it already stays."""
    try:
        told: dict[str, Any] = msgspec.json.decode(body)["error"]
        if "message" in told:
            return body
        code = "deadline_exceeded" if status == 504 else None
        return _encoded(status, tuple(str(told.get(part, "")) for part in ("what", "where", "why", "hint")), None, code)
    except (ValueError, TypeError, KeyError, AttributeError):  # whatever it was
        return _encoded(status, ("the request could not be answered", where, "", ""))


def _encoded(status: int, parts: tuple[str, ...], param: str | None = None, code: str | None = None) -> bytes:
    what, where, why, hint = parts
    error: dict[str, Any] = {
        "message": what + (f": {why}" if why else "") + (f" (hint: {hint})" if hint else ""),
        "type": _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": param,
        "code": code,
    }
    return msgspec.json.encode({"error": error | {"what": what, "where": where[:200], "why": why, "hint": hint}})
