"""Text and tokens of one model, for whatever a request of OpenAI's may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gyral.errors import GyralError
from gyral.serve.openai.wire import Wrong

if TYPE_CHECKING:
    from gyral.model.decoding.sampling import Mask
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

    def mask(self, schema: dict[str, Any] | None) -> Mask | None:
        """What binds an answer: the letters of a model over bytes, a schema."""
        vocab = self.reader.shape.vocab
        letters = None if self.reader.tokenizer is not None else lambda tokens: allowed_after(tokens, vocab)
        structure = None if schema is None else self._structure(schema)
        if letters is None or structure is None:
            return letters or structure
        return lambda tokens: letters(tokens) & structure(tokens)

    def bias(self, given: dict[str, float]) -> dict[int, float]:
        """`logit_bias`, whose keys are tokens."""
        vocab = self.reader.shape.vocab
        if not all(key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab for key in given):
            hint = f"this model has the tokens 0 to {vocab - 1}"
            raise Wrong(400, "`logit_bias` names something that is no token", "logit_bias", "invalid_value", hint=hint)
        return {int(key): value for key, value in given.items()}

    def _structure(self, schema: dict[str, Any]) -> Callable[[Sequence[int]], np.ndarray]:
        from gyral.model.hf import tokenizer_of_bytes
        from gyral.model.structure import Structures

        if self._structures is None:
            reader = self.reader
            body = reader.tokenizer.body if reader.tokenizer is not None else tokenizer_of_bytes()
            self._structures = Structures(body, reader.shape.vocab, next(iter(reader.chat.ends), reader.end))
        try:
            found: Callable[[Sequence[int]], np.ndarray] = self._structures.of(schema)
        except GyralError as error:
            param = "response_format.json_schema.schema"
            raise Wrong(400, error.what, param, "invalid_json_schema", why=error.why, hint=error.hint) from None
        return found

    def _shown(self, token: int) -> tuple[str, bytes]:
        raw = self.reader.bytes_of(token)
        return raw.decode("utf-8", "replace"), raw


def allowed_after(tokens: Sequence[int], vocab: int) -> np.ndarray:
    """Tokens of a model over bytes that go on in UTF-8, bool [V]; known from the last that begins a letter, and those since."""
    from gyral.model.generate import Utf8

    letters = Utf8()
    for back in range(1, min(len(tokens), 3) + 1):
        if not 0x80 <= tokens[-back] < 0xC0:
            for token in tokens[-back:]:
                letters.push(token)
            break
    return letters.allowed(vocab)
