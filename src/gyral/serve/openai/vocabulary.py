"""Text and tokens of one model, for whatever a request of OpenAI's may hold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gyral.errors import GyralError
from gyral.serve.openai.choice import Mask
from gyral.serve.openai.wire import Wrong

if TYPE_CHECKING:
    from gyral.model.lm import Reader


class Vocabulary:
    """What a loaded model reads and writes.

    Attributes
    ----------
    shown : a token → how it reads, and its bytes.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader, self.length = reader, reader.length
        self._structures: Any = None
        self.shown = lru_cache(4_096)(self._shown)

    def plain(self, given: str | list[int]) -> list[int]:
        """Text as tokens; tokens as they are.

        Raises
        ------
        Wrong : one of them is none of the model's.
        """
        if isinstance(given, str):
            return self.reader.tokens(given)
        if (most := max(given)) >= self.reader.shape.vocab:
            hint = f"there are {self.reader.shape.vocab}"
            raise Wrong(400, f"token {most} is none of this model's", "prompt", "invalid_value", hint=hint)
        return given

    def of_prompt(self, given: str | list[int]) -> list[int]:
        """Tokens of a prompt; a text begins a document, and tokens are taken as they are."""
        return [self.reader.end, *self.plain(given)] if isinstance(given, str) else self.plain(given)

    def of_chat(self, said: Sequence[tuple[str, str]]) -> list[int]:
        """Tokens of a conversation by the model's template."""
        from gyral.model.chat import Message, tokens_of

        reader = self.reader
        marked = reader.tokenizer.encode_marked if reader.tokenizer is not None else reader.tokens
        found = tokens_of(reader.chat.pieces([Message(*each) for each in said]), reader.tokens, marked)
        return found if reader.chat.template else [reader.end, *found]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; what is no whole letter is shown as U+FFFD."""
        if self.reader.tokenizer is not None:
            return self.reader.tokenizer.decode(tokens)
        return bytes(token for token in tokens if token < 256).decode("utf-8", "replace")

    def masks(self, schema: dict[str, Any] | None) -> list[Mask]:
        """What binds an answer: the letters of a model over bytes, a schema."""
        found: list[Mask] = [] if self.reader.tokenizer is not None else [_Bytes(self.reader.shape.vocab)]
        return found if schema is None else [*found, self._structure(schema)]

    def bias(self, given: dict[str, float]) -> tuple[tuple[int, float], ...]:
        """`logit_bias`, whose keys are tokens."""
        if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in given):
            raise Wrong(400, "`logit_bias` names something that is no token", "logit_bias", "invalid_value")
        return tuple((int(key), value) for key, value in given.items())

    def _structure(self, schema: dict[str, Any]) -> Mask:
        from gyral.model.hf import tokenizer_of_bytes
        from gyral.model.structure import Structures

        if self._structures is None:
            reader = self.reader
            body = reader.tokenizer.body if reader.tokenizer is not None else tokenizer_of_bytes()
            self._structures = Structures(body, reader.shape.vocab, next(iter(reader.chat.ends), reader.end))
        try:
            found: Mask = self._structures.of(schema)
        except GyralError as error:
            param = "response_format.json_schema.schema"
            raise Wrong(400, error.what, param, "invalid_json_schema", why=error.why, hint=error.hint) from None
        return found

    def _shown(self, token: int) -> tuple[str, bytes]:
        raw = self.reader.bytes_of(token)
        return raw.decode("utf-8", "replace"), raw


class _Bytes:
    """Tokens of a model over bytes may only make UTF-8. Tokens are never taken back."""

    def __init__(self, vocab: int) -> None:
        from gyral.model.generate import Utf8

        self._letters, self._vocab, self._read = Utf8(), vocab, 0

    def __call__(self, tokens: Sequence[int]) -> np.ndarray:
        for token in tokens[self._read :]:
            self._letters.push(token)
        self._read = len(tokens)
        return self._letters.allowed(self._vocab)
