"""What OpenAI's routes answer, as types: for the document of the server. Answers themselves are put together as bytes."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gyral.http.operations import Answer, Operation, Parameter
from gyral.serve.openai.wire import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, ChatComplete, Complete, Embed


class _Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base: a field nobody declared is an error."""


class OpenAiParts(_Told, frozen=True):
    """OpenAI's error, with the four parts of every error here."""

    message: str
    type: str
    param: str | None
    code: str | None
    what: str
    where: str
    why: str
    hint: str


class OpenAiRefusal(_Told, frozen=True):
    """The body of every answer of these routes that is an error."""

    error: OpenAiParts


class PromptDetails(_Told, frozen=True):
    """Of the tokens read, those that were not computed again."""

    cached_tokens: int


class Usage(_Told, frozen=True):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class EmbeddingUsage(_Told, frozen=True):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Logprobs(_Told, frozen=True):
    """Of a completion."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TokenLogprob(_Told, frozen=True):
    """Of one of the likeliest tokens of a chat."""

    token: str
    logprob: float
    bytes: list[int]


class DrawnLogprob(_Told, frozen=True):
    """Of a token of a chat that was drawn."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(_Told, frozen=True):
    """Of a chat."""

    content: list[DrawnLogprob]
    refusal: None


class Text(_Told, frozen=True):
    """One of the texts of a completion."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(_Told, frozen=True):
    """Answer of `POST /v1/completions`; a stream's events are like it, with no `usage` before the last."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Text]
    usage: Usage


class Message(_Told, frozen=True):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Said(_Told, frozen=True):
    """One of the answers of a chat."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(_Told, frozen=True):
    """Answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Said]
    usage: Usage


class Vector(_Told, frozen=True):
    """Of one text: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(_Told, frozen=True):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"]
    model: str
    data: list[Vector]
    usage: EmbeddingUsage


class Listed(_Told, frozen=True):
    """A name that a request may use."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["gyral"]


class Models(_Told, frozen=True):
    """Answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[Listed]


class ServerSentEvent(_Told, frozen=True):
    """One event of a stream: `data` is an answer as far as it has grown, as JSON, and in the end `[DONE]`."""

    data: str
    event: str = "message"


_DEADLINE = Parameter("x-deadline-ms", "header", str, "milliseconds after which the answer is of no use; digits")
_HEADERS = ("x-model-version", "x-request-id")
_EVENTS = Answer(ServerSentEvent, "text/event-stream; charset=utf-8", _HEADERS)
_REFUSALS = (401, 403, 404, 429, 500, 504)


def operations() -> list[Operation]:
    """The routes of a server that has a language model."""

    def written(path: str, summary: str, request: Any, body: Any, example: dict[str, Any]) -> Operation:
        answers = {200: (Answer(body, headers=(*_HEADERS, "x-gyral-alike")), _EVENTS)}
        return Operation("post", path, summary, answers, request, example, (_DEADLINE,), _REFUSALS, OpenAiRefusal)

    chat = {"model": "default", "messages": [{"role": "user", "content": "What comes next?"}], "max_tokens": 8}
    prompt = {"model": "default", "prompt": "What", "max_tokens": 8}
    vectors = {200: Answer(Embeddings, headers=_HEADERS)}
    embed = {"model": "default", "input": ["What comes next?"]}
    name = Parameter("model", "path", str, "its id")
    one = Operation("get", f"{MODELS}/{{model}}", "One of them", {200: Answer(Listed)}, error=OpenAiRefusal)
    names = Operation("get", MODELS, "Names that requests may use", {200: Answer(Models)}, error=OpenAiRefusal)
    return [
        written(COMPLETIONS, "Go on writing after a prompt", Complete, Completion, prompt),
        written(CHAT, "Go on with a conversation", ChatComplete, ChatCompletion, chat),
        Operation("post", EMBEDDINGS, "A vector a text", vectors, Embed, embed, (_DEADLINE,), _REFUSALS, OpenAiRefusal),
        names._replace(refusals=(401, 403, 429)),
        one._replace(parameters=(name,), refusals=(401, 403, 404, 429)),
    ]
