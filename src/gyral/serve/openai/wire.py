"""What OpenAI's client sends, decoded once, and what is refused: with the words that OpenAI has for it, and ours beside them.

An unknown field is an error, as OpenAI has it: a misspelled setting that is passed over changes answers in silence. Settings
that only concern its own machines are taken and do nothing; those that would change an answer and are not done here are
refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from gyral.http import Refused

COMPLETIONS, CHAT, EMBEDDINGS, MODELS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/models"
MAX_CHOICES = 16
MAX_TOKENS = 65_536
MAX_TOLD_CHARS = 4_096
"""Of a prompt and of a text in the event that an answer leaves."""
KEY_CHARS = 256
"""Of a prompt, what says whether another begins alike: some pages of tokens, and shorter than most system prompts."""

Text = Annotated[str, Meta(max_length=1 << 20)]
Prompt = Annotated[list[Any], Meta(min_length=1, max_length=65_536)] | Text
Stop = (
    Annotated[str, Meta(min_length=1, max_length=256)]
    | Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=8)]
)
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Length = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Wrong(Refused):
    """A request that gets an error in OpenAI's form.

    Parameters
    ----------
    param : the field that is wrong.  code : OpenAI's name of the error.
    """

    def __init__(self, status: int, what: str, param: str | None = None, code: str | None = None, **more: Any) -> None:
        super().__init__(status, what, **more)
        self.param, self.code = param, code


class StreamOptions(msgspec.Struct, frozen=True):
    """Whether a stream ends by what it cost."""

    include_usage: bool | None = False
    include_obfuscation: bool | None = False


class Format(msgspec.Struct, frozen=True):
    """What an answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both ways to write have."""

    model: Name
    max_tokens: Length | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | None = None
    seed: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Format | None = None
    user: Annotated[str, Meta(max_length=1024)] | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None

    @property
    def rank(self) -> int:
        """0 is answered first, 2 last."""
        return {"priority": 0, "flex": 2}.get(self.service_tier or "", 1)


class Complete(_Asked, frozen=True, kw_only=True):
    """Body of `POST /v1/completions`."""

    prompt: Prompt | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation; its other fields are passed over."""

    role: str
    content: Text | Annotated[list[dict[str, Any]], Meta(max_length=1024)] | None = None


class ChatComplete(_Asked, frozen=True, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Said], Meta(min_length=1, max_length=4096)]
    max_completion_tokens: Length | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    metadata: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    store: Any = None
    verbosity: Any = None


class Embed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/embeddings`."""

    model: Name
    input: Annotated[list[Any], Meta(min_length=1, max_length=2048)] | Text
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: Annotated[str, Meta(max_length=1024)] | None = None


Body = Complete | ChatComplete | Embed
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    COMPLETIONS: msgspec.json.Decoder(Complete),
    CHAT: msgspec.json.Decoder(ChatComplete),
    EMBEDDINGS: msgspec.json.Decoder(Embed),
}
_UNDONE = ("tools", "functions", "audio", "prediction", "web_search_options")
_FIELD, _PATH = re.compile("field `([^`]*)`"), re.compile(r" - at `\$\.?([^`]*)`")
_NO_TOOLS = "language models here call no tools: leave it out, or ask for JSON by `response_format`"


def decode(path: str, body: bytes) -> Body:
    """A request of one of the routes, looked through.

    Raises
    ------
    Wrong : it cannot be answered, whatever the model.
    """
    try:
        found = cast(Body, _DECODERS[path].decode(body))
    except (msgspec.ValidationError, RecursionError) as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "send the body that OpenAI's client sends"
        raise Wrong(400, "the body of the request is not JSON", why=str(error), hint=hint) from None
    if isinstance(found, ChatComplete):
        _look_through_chat(found)
    elif isinstance(found, Complete):
        if found.suffix:
            raise _undone("suffix", "text cannot be put in the middle")
        if found.best_of not in (None, found.n or 1):
            raise _undone("best_of", "leave it out: all `n` answers are given")
        if found.echo and found.logprobs is not None:
            raise _undone("echo", "a prompt has no logprobs: `POST /v1/score` tells its bits")
        prompts(found.prompt if found.prompt is not None else "", "prompt")
    elif found.dimensions is not None and found.dimensions < 1:
        raise Wrong(400, "`dimensions` must be 1 or more", "dimensions", "invalid_value")
    else:
        prompts(found.input, "input")
    if not isinstance(found, Embed) and found.response_format is not None:
        schema_of(found.response_format)
    return found


def prompts(given: Any, param: str) -> list[str | list[int]]:
    """Text, texts, tokens or lists of tokens, as a list of prompts."""
    listed = given if isinstance(given, list) and not all(isinstance(each, int) for each in given) else [given]
    for each in listed:
        is_tokens = isinstance(each, list) and all(type(token) is int and 0 <= token < 1 << 31 for token in each)
        if not (isinstance(each, str) or (is_tokens and each)):
            hint = "send a text, a list of texts, a list of tokens, or a list of those"
            raise Wrong(400, f"`{param}` holds something that is no text and no tokens", param, "invalid_type", hint=hint)
    return listed


def beginning(asked: Body) -> bytes:
    """What texts that begin alike have in common: the client's own name for it, and their first `KEY_CHARS` letters or tokens.

    A system prompt, mostly; where it is shorter, what is said first belongs to it. Empty for what is not written.
    """
    if isinstance(asked, Embed):
        return b""
    if isinstance(asked, Complete):
        first = asked.prompt[0] if isinstance(asked.prompt, list) and asked.prompt else asked.prompt
        if isinstance(first, int):
            first = asked.prompt
        return str(first[:KEY_CHARS] if first else "").encode("utf-8", "surrogatepass")
    found, left = [str(asked.prompt_cache_key or "")[:KEY_CHARS]], KEY_CHARS
    for at, said in enumerate(asked.messages):
        found += said.role, text_of(said, at)[:left]
        left -= len(found[-1])
        if left <= 0:
            break
    return "\0".join(found).encode("utf-8", "surrogatepass")


def schema_of(form: Format) -> dict[str, Any] | None:
    """The schema that an answer must follow, None for any text."""
    if form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    schema = (form.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        hint = '{"type": "json_schema", "json_schema": {"name": "…", "schema": {"type": "object"}}}'
        raise Wrong(400, "the schema is missing", "response_format.json_schema.schema", "missing_required_parameter", hint=hint)
    return schema


def text_of(said: Said, at: int) -> str:
    """What a message says; parts of text are joined."""
    if said.content is None or isinstance(said.content, str):
        return said.content or ""
    found = []
    for place, part in enumerate(said.content):
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            where = f"messages[{at}].content[{place}]"
            raise Wrong(400, f"`{where}` is no text", where, "invalid_value", hint="language models here read text only")
        found.append(part["text"])
    return "".join(found)


def _look_through_chat(found: ChatComplete) -> None:
    for name in _UNDONE:
        if getattr(found, name):
            raise _undone(name, _NO_TOOLS if name in ("tools", "functions") else "leave it out")
    for name in ("tool_choice", "function_call"):
        if getattr(found, name) not in (None, "none", "auto"):
            raise _undone(name, _NO_TOOLS)
    if found.modalities not in (None, [], ["text"]):
        raise _undone("modalities", "answers are text")
    if found.top_logprobs and not found.logprobs:
        raise Wrong(400, "`top_logprobs` needs `logprobs`", "top_logprobs", "invalid_value", hint='send `"logprobs": true` too')
    for at, said in enumerate(found.messages):
        if said.role not in ("system", "developer", "user", "assistant"):
            hint = "`system`, `developer`, `user` or `assistant`"
            raise Wrong(400, f"`{said.role[:64]}` is no role here", f"messages[{at}].role", "invalid_value", hint=hint)
        text_of(said, at)


def _undone(param: str, hint: str) -> Wrong:
    return Wrong(400, f"`{param}` is not supported", param, "unsupported_parameter", hint=hint)


def _invalid(told: str) -> Wrong:
    """msgspec's words as OpenAI's."""
    inside = _PATH.search(told)
    path, field = inside[1] if inside else "", _FIELD.search(told)
    if field and "unknown field" in told:
        name = f"{path}.{field[1]}" if path else field[1]
        hint = "check its spelling; what a server of your own adds is not known here"
        return Wrong(400, f"Unrecognized request argument supplied: {name}", name, "unknown_parameter", hint=hint)
    if field and "missing required" in told:
        name = f"{path}.{field[1]}" if path else field[1]
        return Wrong(400, f"Missing required parameter: '{name}'", name, "missing_required_parameter")
    code = "invalid_type" if told.startswith("Expected `") and ", got" in told else "invalid_value"
    return Wrong(400, f"Invalid value for '{path}'" if path else "the request is not one", path or None, code, why=told)
