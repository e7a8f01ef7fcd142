"""Answers in OpenAI's form: whole ones and events of a stream, without `id`, `object`, `created`, `model`.

Those four are the same in each event of an answer, so whoever holds the connection puts them before what is here, as bytes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from gyral.serve.openai.choice import Told
from gyral.serve.openai.wire import CHAT

Shown = Callable[[int], tuple[str, bytes]]
"""A token → how it reads, and its bytes."""
_encode = msgspec.json.Encoder().encode
_GROWS = b',"logprobs":null,"finish_reason":null}'
_GROWS_CHAT = b"}" + _GROWS
_LEAST = -9999.0
"""What OpenAI says for minus infinity, which JSON has not."""


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """Tokens read and written, and those of the prompt that had been read before."""
    found: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return found | {"prompt_tokens_details": {"cached_tokens": cached}}


def whole(path: str, index: int, text: str, ended_by: str | None, told: Sequence[Told] | None, shown: Shown) -> dict[str, Any]:
    """A finished answer."""
    probs = None if told is None else logprobs(path, told, shown)
    if path == CHAT:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": probs, "finish_reason": ended_by}
    return {"index": index, "text": text, "logprobs": probs, "finish_reason": ended_by}


def event(
    path: str, index: int, text: str, ended_by: str | None, told: Sequence[Told] | None, shown: Shown, is_first: bool = False
) -> bytes:
    """What an answer has grown by, one of an event's `choices`. Most tokens are text alone, and cost a third of the others."""
    if ended_by is None and not told and not is_first:
        before = b'{"index":%d,"delta":{"content":' if path == CHAT else b'{"index":%d,"text":'
        return before % index + _encode(text) + (_GROWS_CHAT if path == CHAT else _GROWS)
    probs = logprobs(path, told, shown) if told else None
    if path == CHAT:
        delta: dict[str, Any] = {"role": "assistant", "content": text} if is_first else {"content": text} if text else {}
        return _encode({"index": index, "delta": delta, "logprobs": probs, "finish_reason": ended_by})
    return _encode({"index": index, "text": text, "logprobs": probs, "finish_reason": ended_by})


def choices(grown: Sequence[bytes]) -> bytes:
    """An event of a stream."""
    return b'{"choices":[' + b",".join(grown) + b"]}"


def logprobs(path: str, told: Sequence[Told], shown: Shown) -> dict[str, Any]:
    """Logarithms of probability, of chats and of completions."""
    if path != CHAT:
        tokens = [shown(each.token)[0] for each in told]
        offsets = [0]
        for token in tokens:
            offsets.append(offsets[-1] + len(token))
        likeliest = [{shown(token)[0]: _finite(value) for token, value in each.likeliest} for each in told]
        return {
            "tokens": tokens, "token_logprobs": [_finite(each.logprob) for each in told], "top_logprobs": likeliest,
            "text_offset": offsets[:-1],
        }  # fmt: skip

    def one(token: int, value: float) -> dict[str, Any]:
        text, raw = shown(token)
        return {"token": text, "logprob": _finite(value), "bytes": list(raw)}

    content = [one(each.token, each.logprob) | {"top_logprobs": [one(*pair) for pair in each.likeliest]} for each in told]
    return {"content": content, "refusal": None}


def embedding(index: int, vector: np.ndarray, is_base64: bool) -> dict[str, Any]:
    """A vector, as numbers or as the little-endian float32 of them."""
    found: Any = base64.b64encode(vector.astype("<f4").tobytes()).decode() if is_base64 else vector.tolist()
    return {"object": "embedding", "index": index, "embedding": found}


def _finite(value: float) -> float:
    return round(value, 6) if math.isfinite(value) else _LEAST
