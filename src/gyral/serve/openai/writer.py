"""What OpenAI's routes ask of one language model: prompts become sequences of a batch, and tokens that come back become parts.

The engine below decides who is in the next pass; here an answer is read, ended and put into OpenAI's form, each as it would be
alone. An answer whose client has gone leaves the batch before the next pass.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gyral.config.sections import Decode
from gyral.errors import GyralError
from gyral.serve.engine import Ask, Part
from gyral.serve.openai import forms
from gyral.serve.openai.choice import Choice, Letters, Settings
from gyral.serve.openai.errors import body_of
from gyral.serve.openai.patience import Patience
from gyral.serve.openai.vocabulary import Vocabulary
from gyral.serve.openai.wire import (
    CHAT,
    MAX_CHOICES,
    MAX_TOLD_CHARS,
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
    from gyral.model.decoding.engine import Counts
    from gyral.model.decoding.line import Ahead
    from gyral.model.decoding.sampling import Sampling
    from gyral.model.decoding.sequence import TokenAsk, Told
    from gyral.model.lm import Reader

"""Of a prompt and its answer, what the log keeps."""
DEFAULT_TOKENS = 16
"""Of a completion that says nothing of its length, as OpenAI has it; a chat goes on until the window is full."""


class Decodes(Protocol):
    """What makes tokens of many sequences: `model.decoding`'s `Decoding` and `Alone`."""

    counts: Counts

    @property
    def most_tokens(self) -> int: ...

    def ahead(self, ask: TokenAsk) -> Ahead: ...

    def submit(self, ask: TokenAsk) -> None: ...

    def cancel(self, id: int) -> None: ...

    def step(self) -> list[Told]: ...

    def close(self) -> None: ...


class _Job:
    """One ask as it is answered.

    Attributes
    ----------
    ids : of its sequences, one a choice.
    sent : letters and tokens of each choice that went out already.
    cached : tokens of each choice's prompt that had been read before.
    """

    def __init__(self, ask: Ask, body: Complete | ChatComplete) -> None:
        self.ask, self.body = ask, body
        self.prompts: list[list[int]] = []
        self.echoed: list[str] = []
        self.asked = ""
        self.ids: list[int] = []
        self.choices: list[Choice] = []
        self.sent: list[tuple[int, int]] = []
        self.cached: list[int] = []

    @property
    def is_done(self) -> bool:
        return all(choice.ended_by is not None for choice in self.choices)


class _Vectors:
    """Texts that are embedded, one a step."""

    def __init__(self, ask: Ask, body: Embed, texts: list[list[int]]) -> None:
        self.ask, self.texts, self.data = ask, texts, list[dict[str, Any]]()
        self.is_base64 = body.encoding_format == "base64"
        self.until = time.monotonic() + ask.deadline_s


class Writer:
    """Writes and embeds with a loaded language model.

    Parameters
    ----------
    reader : the model with its tokens.
    version : of the model, `name@n`.
    decodes : its engine.
    """

    def __init__(self, reader: Reader, version: str, decodes: Decodes, config: Decode | None = None) -> None:
        config = config or Decode()
        self.version, self._decodes = version, decodes
        self._tokens = Vocabulary(reader)
        self._patience = Patience(config.running, config.waiting, config.patience_s)
        self._ids = itertools.count()
        self._jobs: dict[int, _Job] = {}
        self._places: dict[int, tuple[_Job, int]] = {}
        self._vectors: deque[_Vectors] = deque()
        self._parts: list[Part] = []
        self._has_told = False

    def submit(self, ask: Ask) -> None:
        """Take it into the batch, or refuse it."""
        self._parts += self._guarded(ask, self._begin, ask)

    def cancel(self, id: int) -> None:
        """Drop it, wherever it is."""
        self._drop(id)
        self._parts = [part for part in self._parts if part.id != id]

    def step(self) -> list[Part]:
        """One pass of the batch, and one text embedded; before it, as it may take long, who was let in or refused is told."""
        parts, self._parts = self._parts, []
        self._has_told = bool(parts) and not self._has_told  # not twice in a row: those who are refused hold up nobody
        if self._has_told:
            return parts
        if self._vectors:
            parts += self._guarded(self._vectors[0].ask, self._embed, self._vectors[0])
        before, began = self._decodes.counts, time.perf_counter()
        found = self._decodes.step()
        after, seconds = self._decodes.counts, time.perf_counter() - began
        if after.passes > before.passes:
            self._patience.passed(after.read - before.read, after.drawn - before.drawn, seconds)
        grown: dict[int, list[bytes]] = {}
        for told in found:
            if told.id in self._places:  # or nobody waits for it any more
                job, number = self._places[told.id]
                parts += self._guarded(job.ask, self._take, job, number, told, grown.setdefault(job.ask.id, []))
        for id, events in grown.items():
            if id in self._jobs:
                parts += self._guarded(self._jobs[id].ask, self._told, self._jobs[id], events)
        return parts

    def warm(self) -> None:
        """Write two tokens, so that everything is compiled and loaded."""
        from gyral.model.decoding.sequence import TokenAsk

        self._decodes.submit(TokenAsk(next(self._ids), [self._tokens.reader.end], 2))
        while self._decodes.step():
            pass

    def close(self) -> None:
        """Forget all."""
        self._decodes.close()
        self._jobs.clear()
        self._places.clear()
        self._vectors.clear()

    def _guarded(self, ask: Ask, act: Callable[..., list[Part]], *given: Any) -> list[Part]:
        """What the client did wrong becomes its answer; whatever else happens, the other asks go on."""
        try:
            return act(*given)
        except Wrong as error:
            refused = error
        except GyralError as error:
            refused = Wrong(400, error.what, why=error.why, hint=error.hint)
        except Exception as error:  # the model's fault
            self._drop(ask.id)
            told = f"{type(error).__name__}: {error}"
            return [Part(ask.id, 500, body_of(Wrong(500, "the model could not answer"), ask.path), True, {"failed": told})]
        self._drop(ask.id)
        again = dict(refused.headers).get(b"retry-after", b"").decode()
        props = {"retry_after": again, "elsewhere": True} if again else {}
        return [Part(ask.id, refused.status, body_of(refused, ask.path), True, props)]

    def _drop(self, id: int) -> None:
        job = self._jobs.pop(id, None)
        for each in job.ids if job is not None else []:
            if self._places.pop(each, None) is not None:
                self._decodes.cancel(each)
        self._vectors = deque(each for each in self._vectors if each.ask.id != id)

    def _begin(self, ask: Ask) -> list[Part]:
        body = decode(ask.path, ask.body)
        if isinstance(body, Embed):
            vectors = self._read_texts(ask, body)
            self._vectors.append(vectors)
            return [_let_in(ask, vectors.texts)]
        job = _Job(ask, body)
        self._read_prompts(job)
        room = self._tokens.length - max(map(len, job.prompts))
        if room < 0:
            size, hint = self._tokens.length - room, "shorten the prompt"
            param = "messages" if ask.path == CHAT else "prompt"
            what = f"This model's maximum context length is {self._tokens.length} tokens, and the prompt has {size}"
            raise Wrong(400, what, param, "context_length_exceeded", hint=hint)
        self._jobs[ask.id] = job
        for number in range(len(job.prompts) * (body.n or 1)):
            self._add(job, number)
        parts = [_let_in(ask, job.prompts)]
        if ask.is_stream:
            begun = [self._event(job, number, "", None, None, True) for number in range(len(job.choices))]
            if ask.path == CHAT or any(job.echoed):
                parts.append(Part(ask.id, 200, forms.choices(begun), False, {"opening": True}))
        return parts + (self._told(job, []) if job.is_done else [])

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

    def _add(self, job: _Job, number: int) -> None:
        """Let a choice wait for its turn."""
        from gyral.model.decoding.sequence import TokenAsk

        body, reader = job.body, self._tokens.reader
        prompt = job.prompts[number // (body.n or 1)]
        given = [body.stop] if isinstance(body.stop, str) else body.stop or []
        own = reader.chat.stops if job.ask.path == CHAT else ()
        ends = frozenset({reader.end, *reader.chat.ends})
        settings = Settings(self._most(job, prompt), (*filter(None, given), *own), ends)
        ask = TokenAsk(
            next(self._ids), prompt, settings.max_tokens, self._sampling(body, number), end=ends,
            deadline_s=job.ask.deadline_s, priority=body.rank,
        )  # fmt: skip
        job.ids.append(ask.id)
        job.choices.append(Choice(settings, Letters(self._tokens.decode)))
        job.sent.append((0, 0))
        job.cached.append(0)
        if settings.max_tokens:
            if not number:
                self._patience.check(self._decodes.ahead(ask), len(prompt), job.ask.deadline_s)
            self._decodes.submit(ask)
            self._places[ask.id] = job, number

    def _most(self, job: _Job, prompt: list[int]) -> int:
        """Tokens of an answer."""
        body, most = job.body, job.body.max_tokens
        if isinstance(body, Complete):
            return DEFAULT_TOKENS if most is None else most
        most = body.max_completion_tokens if body.max_completion_tokens is not None else most
        if most is None:
            most = max(min(self._tokens.length, self._decodes.most_tokens) - len(prompt), DEFAULT_TOKENS)
        return most

    def _sampling(self, body: Complete | ChatComplete, number: int) -> Sampling:
        from gyral.model.decoding.sampling import Sampling

        probs = body.logprobs if isinstance(body, Complete) else (body.top_logprobs or 0) if body.logprobs else None
        schema = schema_of(body.response_format) if body.response_format is not None else None
        seed = (body.seed if body.seed is not None else time.monotonic_ns()) + number
        return Sampling(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else max(body.top_p, 1e-9),
            presence=body.presence_penalty or 0.0,
            frequency=body.frequency_penalty or 0.0,
            seed=seed % (1 << 63),
            num_top=-1 if probs is None else probs,
            bias=self._tokens.bias(body.logit_bias or {}),
            mask=self._tokens.mask(schema),
        )

    def _take(self, job: _Job, number: int, told: Told, into: list[bytes]) -> list[Part]:
        """What came of a choice; its events go into a list, since those of all choices leave together."""
        choice = job.choices[number]
        job.cached[number] += told.cached
        for drawn in told.drawn:
            choice.take(drawn.token, drawn.logprob, drawn.top)
        if choice.ended_by is None and told.ended_by == "deadline":
            hint = "ask for fewer tokens, or give it more time"
            raise Wrong(504, "the deadline passed before the answer was whole", code="deadline_exceeded", hint=hint)
        if choice.ended_by is None and told.ended_by:
            raise Wrong(400, "the answer could not be written to its end", why=told.why or told.ended_by)
        if choice.ended_by is not None:
            del self._places[told.id]
            self._patience.ended(choice.num)
            if not told.ended_by:  # a text that stops it
                self._decodes.cancel(told.id)
        if job.ask.is_stream:
            into += self._grown(job, number)
        return []

    def _told(self, job: _Job, grown: list[bytes]) -> list[Part]:
        if not job.is_done:
            return [Part(job.ask.id, 200, forms.choices(grown), False)] if grown else []
        del self._jobs[job.ask.id]
        if job.ask.is_stream:
            grown = grown or [event for number in range(len(job.choices)) for event in self._grown(job, number)]
        return self._ended(job, grown)

    def _grown(self, job: _Job, number: int) -> list[bytes]:
        """The event of what a text has grown by since the last one, if it has."""
        choice, (letters, tokens) = job.choices[number], job.sent[number]
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
        num = sum(choice.num for choice in job.choices)
        read, cached = sum(map(len, job.prompts)), sum(job.cached[:: job.body.n or 1])
        used = forms.usage(read, num, cached)
        texts = [choice.text[:MAX_TOLD_CHARS] for choice in job.choices]
        props: dict[str, Any] = {"prompt": job.asked[:MAX_TOLD_CHARS], "text": texts[0], "tokens": num}
        props |= {"prompt_tokens": read, "cached_tokens": cached}
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
            for number, choice in enumerate(job.choices)
        ]  # fmt: skip
        return [self._part(job, {"choices": done, "usage": used})._replace(is_last=True, props=props)]

    def _read_texts(self, ask: Ask, body: Embed) -> _Vectors:
        width = self._tokens.reader.shape.width
        if body.dimensions not in (None, width):
            raise Wrong(
                400, f"vectors of this model have {width} dimensions", "dimensions", "invalid_value", hint="leave it out"
            )
        return _Vectors(ask, body, [self._tokens.plain(each) for each in prompts(body.input, "input")])

    def _embed(self, vectors: _Vectors) -> list[Part]:
        """The next text of those that are embedded."""
        if time.monotonic() > vectors.until:
            raise Wrong(504, "the deadline passed before all texts were read", code="deadline_exceeded", hint="fewer texts")
        at = len(vectors.data)
        vectors.data.append(forms.embedding(at, self._tokens.reader.vector(vectors.texts[at]), vectors.is_base64))
        if len(vectors.data) < len(vectors.texts):
            return []
        self._vectors.popleft()
        used = sum(map(len, vectors.texts))
        told = {"data": vectors.data, "usage": {"prompt_tokens": used, "total_tokens": used}}
        return [Part(vectors.ask.id, 200, msgspec.json.encode(told), True, {"texts": len(vectors.texts), "tokens": used})]

    def _part(self, job: _Job, body: dict[str, Any]) -> Part:
        return Part(job.ask.id, 200, msgspec.json.encode(body), False)


def _let_in(ask: Ask, prompts: list[list[int]]) -> Part:
    """Tells of an ask that will be answered how much is read for it."""
    return Part(ask.id, 200, b"", False, {"opening": True, "prompt_tokens": sum(map(len, prompts))})
