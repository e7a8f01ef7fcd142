"""An engine that writes for OpenAI's routes with one language model: several texts in turn, each a token a step.

A step runs the model once for every text that is being written, so nobody waits for another's end; it does not batch them, and
eight at once take eight times as long a token. An engine that does takes the same asks and gives the same parts.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from gyral.errors import GyralError
from gyral.model.family import Servable
from gyral.serve.engine import Ask, Part
from gyral.serve.openai import forms
from gyral.serve.openai.choice import Choice, Letters, Settings
from gyral.serve.openai.errors import body_of
from gyral.serve.openai.vocabulary import Vocabulary
from gyral.serve.openai.wire import (
    CHAT,
    MAX_CHOICES,
    ChatComplete,
    Complete,
    Embed,
    Wrong,
    decode,
    prompts,
    schema_of,
    text_of,
)  # fmt: skip

if TYPE_CHECKING:
    from gyral.model.generate import Generation
    from gyral.model.lm import Reader

MAX_WRITING = 16
"""Texts written in turn; more wait."""
MAX_TOLD_CHARS = 4_096
"""Of a prompt and its answer, what the log keeps."""
DEFAULT_TOKENS = 16
"""Of a completion that says nothing of its length, as OpenAI has it; a chat goes on until the window is full."""


class _Text(NamedTuple):
    """One answer and the model's place in it."""

    choice: Choice
    generation: Generation


class _Job:
    """One ask as it is answered.

    Attributes
    ----------
    sent : letters and tokens of each text that went out already.
    """

    def __init__(self, ask: Ask, body: Complete | ChatComplete, until: float) -> None:
        self.ask, self.body, self.until = ask, body, until
        self.prompts: list[list[int]] = []
        self.echoed: list[str] = []
        self.asked = ""
        self.texts: list[_Text] = []
        self.sent: list[tuple[int, int]] = []

    @property
    def is_done(self) -> bool:
        return all(text.choice.ended_by is not None for text in self.texts)


def engine_of(model: Servable) -> Writer:
    """The engine of a model of the family `lm`."""
    return Writer(cast("Reader", model), model.name)


class Writer:
    """Writes and embeds with a loaded language model.

    Parameters
    ----------
    reader : the model with its tokens.
    version : of the model, `name@n`.
    """

    def __init__(self, reader: Reader, version: str) -> None:
        self.version = version
        self._reader: Reader | None = reader
        self._tokens = Vocabulary(reader)
        self._waiting: deque[tuple[Ask, float]] = deque()
        self._writing: dict[int, _Job] = {}

    def submit(self, ask: Ask) -> None:
        """Put it in line."""
        self._waiting.append((ask, time.monotonic() + ask.deadline_s))

    def cancel(self, id: int) -> None:
        """Drop it, wherever it is."""
        self._writing.pop(id, None)
        self._waiting = deque(each for each in self._waiting if each[0].id != id)

    def step(self) -> list[Part]:
        """One token for each text that is written, or one text embedded."""
        parts: list[Part] = []
        while self._waiting and sum(len(job.texts) for job in self._writing.values()) < MAX_WRITING:
            ask, until = self._waiting.popleft()
            parts += self._guarded(ask, lambda ask=ask, until=until: self._begin(ask, until))
        for job in list(self._writing.values()):
            parts += self._guarded(job.ask, lambda job=job: self._go_on(job))
        return parts

    def close(self) -> None:
        """Forget the model."""
        self._reader = None
        self._waiting.clear()
        self._writing.clear()

    def _guarded(self, ask: Ask, act: Any) -> list[Part]:
        """What the client did wrong becomes its answer; whatever else happens, the other asks go on."""
        try:
            found: list[Part] = act()
            return found
        except Wrong as error:
            refused = error
        except GyralError as error:
            refused = Wrong(400, error.what, why=error.why, hint=error.hint)
        except Exception as error:  # the model's fault
            told = f"{type(error).__name__}: {error}"
            self._writing.pop(ask.id, None)
            return [Part(ask.id, 500, body_of(Wrong(500, "the model could not answer"), ask.path), True, {"failed": told})]
        self._writing.pop(ask.id, None)
        return [Part(ask.id, refused.status, body_of(refused, ask.path))]

    def _begin(self, ask: Ask, until: float) -> list[Part]:
        body = decode(ask.path, ask.body)
        if isinstance(body, Embed):
            return [self._embedded(ask, body)]
        job = _Job(ask, body, until)
        self._read_prompts(job)
        room = self._tokens.length - max(map(len, job.prompts))
        if room < 0:
            size, hint = self._tokens.length - room, "shorten the prompt"
            param = "messages" if ask.path == CHAT else "prompt"
            what = f"This model's maximum context length is {self._tokens.length} tokens, and the prompt has {size}"
            raise Wrong(400, what, param, "context_length_exceeded", hint=hint)
        for number in range(len(job.prompts) * (body.n or 1)):
            job.texts.append(self._text(job, number, room))
            job.sent.append((0, 0))
        self._writing[ask.id] = job
        if ask.is_stream:
            begun = [self._event(job, number, "", None, None, True) for number in range(len(job.texts))]
            texts = ["", *job.echoed] if ask.path != CHAT else []
            is_said = ask.path == CHAT or any(texts)
            return [Part(ask.id, 200, forms.choices(begun), False)] if is_said else []
        return []

    def _read_prompts(self, job: _Job) -> None:
        body, tokens = job.body, self._tokens
        if isinstance(body, ChatComplete):
            said = [
                (("system" if each.role == "developer" else each.role), text_of(each, at))
                for at, each in enumerate(body.messages)
            ]
            job.prompts, job.asked = [tokens.of_chat(said)], said[-1][1]
            return
        given = prompts(body.prompt if body.prompt is not None else "", "prompt")
        if len(given) * (body.n or 1) > MAX_CHOICES:
            raise Wrong(
                400, f"{len(given)} prompts with `n` {body.n or 1} are too many answers", "n", hint=f"at most {MAX_CHOICES}"
            )
        job.prompts = [tokens.of_prompt(each) for each in given]
        texts = [each if isinstance(each, str) else tokens.decode(each) for each in given]
        job.asked, job.echoed = texts[0], texts if body.echo else []

    def _text(self, job: _Job, number: int, room: int) -> _Text:
        from gyral.model.generate import Generation, Sampler

        body, reader = job.body, self._tokens.reader
        most = body.max_tokens
        probs = body.logprobs if isinstance(body, Complete) else None
        if isinstance(body, ChatComplete):
            most = body.max_completion_tokens if body.max_completion_tokens is not None else most
            most = max(room, DEFAULT_TOKENS) if most is None else most
            probs = (body.top_logprobs or 0) if body.logprobs else None
        given = [body.stop] if isinstance(body.stop, str) else body.stop or []
        own = reader.chat.stops if job.ask.path == CHAT else ()
        settings = Settings(
            DEFAULT_TOKENS if most is None else most, (*filter(None, given), *own), frozenset({reader.end, *reader.chat.ends}),
            body.presence_penalty or 0.0, body.frequency_penalty or 0.0, self._tokens.bias(body.logit_bias or {}), probs,
        )  # fmt: skip
        schema = schema_of(body.response_format) if body.response_format is not None else None
        masks = self._tokens.masks(schema)
        temperature = 1.0 if body.temperature is None else body.temperature
        seed = (body.seed if body.seed is not None else time.monotonic_ns()) + number
        sampler = Sampler(temperature, 1.0 if body.top_p is None else max(body.top_p, 1e-9), seed % (1 << 63))
        prompt = job.prompts[number // (body.n or 1)]
        generation = Generation(reader.model, prompt, reader.length, turn=reader.turn)
        return _Text(Choice(settings, sampler, Letters(self._tokens.decode), masks), generation)

    def _go_on(self, job: _Job) -> list[Part]:
        if time.monotonic() > job.until:
            hint = "ask for fewer tokens, or give it more time"
            raise Wrong(504, "the deadline passed before the answer was whole", code="deadline_exceeded", hint=hint)
        grown: list[bytes] = []
        for number, (choice, generation) in enumerate(job.texts):
            if choice.ended_by is None:
                token = choice.draw(generation.logits())
                if token is not None:
                    generation.push(token)
            if job.ask.is_stream:
                grown += self._grown(job, number)
        if not job.is_done:
            return [Part(job.ask.id, 200, forms.choices(grown), False)] if grown else []
        del self._writing[job.ask.id]
        return self._ended(job, grown)

    def _grown(self, job: _Job, number: int) -> list[bytes]:
        """The event of what a text has grown by since the last one, if it has."""
        choice, (letters, tokens) = job.texts[number].choice, job.sent[number]
        if letters < 0:
            return []
        text, told = choice.text[letters:], choice.told[tokens:]
        if not text and choice.ended_by is None:
            return []
        job.sent[number] = (len(choice.text) if choice.ended_by is None else -1, len(choice.told))
        return [self._event(job, number, text, choice.ended_by, told or None, False)]

    def _event(self, job: _Job, number: int, text: str, ended_by: str | None, told: Any, is_first: bool) -> bytes:
        if is_first and job.echoed:
            text = job.echoed[number // (job.body.n or 1)]
        return forms.event(job.ask.path, number, text, ended_by, told, self._tokens.shown, is_first)

    def _ended(self, job: _Job, grown: list[bytes]) -> list[Part]:
        choices = [text.choice for text in job.texts]
        used = forms.usage(sum(map(len, job.prompts)), sum(len(choice.tokens) for choice in choices))
        texts = [choice.text[:MAX_TOLD_CHARS] for choice in choices]
        props: dict[str, Any] = {"prompt": job.asked[:MAX_TOLD_CHARS], "text": texts[0], "tokens": used["completion_tokens"]}
        props |= {"texts": texts} if len(texts) > 1 else {}
        props |= {"seed": job.body.seed} if job.body.seed is not None else {}
        if job.ask.is_stream:
            options = job.body.stream_options
            parts = [Part(job.ask.id, 200, forms.choices(grown), False)] if grown else []
            if options is not None and options.include_usage:
                parts.append(self._part(job, {"choices": [], "usage": used}))
            return [*parts[:-1], parts[-1]._replace(is_last=True, props=props)]
        echoed = job.echoed or [""] * len(job.prompts)
        done = [
            forms.whole(
                job.ask.path, number, echoed[number // (job.body.n or 1)] + choice.text, choice.ended_by,
                choice.told if choice.told else None, self._tokens.shown,
            )
            for number, choice in enumerate(choices)
        ]  # fmt: skip
        return [self._part(job, {"choices": done, "usage": used})._replace(is_last=True, props=props)]

    def _embedded(self, ask: Ask, body: Embed) -> Part:
        given, tokens = prompts(body.input, "input"), self._tokens
        width = tokens.reader.shape.width
        if body.dimensions not in (None, width):
            raise Wrong(
                400, f"vectors of this model have {width} dimensions", "dimensions", "invalid_value", hint="leave it out"
            )
        read = [tokens.plain(each) for each in given]
        is_base64 = body.encoding_format == "base64"
        data = [forms.embedding(at, tokens.reader.vector(each), is_base64) for at, each in enumerate(read)]
        used = sum(map(len, read))
        told = {"data": data, "usage": {"prompt_tokens": used, "total_tokens": used}}
        return Part(ask.id, 200, msgspec.json.encode(told), True, {"texts": len(given), "tokens": used})

    def _part(self, job: _Job, body: dict[str, Any]) -> Part:
        return Part(job.ask.id, 200, msgspec.json.encode(body), False)
