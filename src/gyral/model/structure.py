"""Answers that a JSON schema describes: which tokens may come next, so that whatever is drawn parses.

The automaton is llguidance's (MIT, one wheel of 3 MB without dependencies). Looked at beside it: xgrammar needs transformers
and triton; outlines-core lists the whole automaton before the first token. A grammar is compiled once a schema and copied for
each answer; a token is a bitmask of the vocabulary.

Between members and items stands what models write in training, `, ` and `: `, and no other white space, or a random answer
could be spaces for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec
import numpy as np

from gyral.errors import InputError, MissingExtra

MAX_KEPT = 256
"""Schemas whose compiled grammar is kept."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}


class Structure:
    """One answer that grows: `mask` says what may come, `push` what came."""

    def __init__(self, matcher: Any, vocab: int) -> None:
        self._matcher, self._vocab = matcher, vocab

    def mask(self) -> np.ndarray:
        """Tokens that may come next, bool [V]; the end is one of them where the answer is whole.

        Raises
        ------
        InputError : the grammar gave up, for example at a limit of its size.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise InputError("the schema cannot be followed", why=self._matcher.get_error()[:300])
        found = np.zeros(self._vocab, bool)
        listed = np.unpackbits(bits, bitorder="little")[: self._vocab]
        found[: len(listed)] = listed
        return found

    def push(self, token: int) -> None:
        """A token that was allowed."""
        if not self._matcher.consume_token(token):
            raise InputError("the schema cannot be followed", why=self._matcher.get_error()[:300])

    @property
    def is_whole(self) -> bool:
        """Whether nothing but the end may come."""
        return bool(self._matcher.is_stopped())


class Structures:
    """Makes them for one vocabulary. Calls come from one thread.

    Parameters
    ----------
    tokenizer : body of a `tokenizer.json`.
    vocab : outputs of the model; those that the tokenizer does not know are never allowed.
    end : token that ends an answer.
    """

    def __init__(self, tokenizer: bytes, vocab: int, end: int) -> None:
        try:
            from llguidance import LLMatcher, LLTokenizer
        except ImportError:
            raise MissingExtra("llguidance", "structure", "an answer that follows a schema") from None
        self._vocab, self._new = vocab, LLMatcher
        self._tokenizer = LLTokenizer(tokenizer.decode(), eos_token=end)
        self._kept: OrderedDict[bytes, Any] = OrderedDict()

    def of(self, schema: dict[str, Any]) -> Structure:
        """An answer that this schema describes.

        Raises
        ------
        InputError : it is no JSON schema, or one with a part that cannot be followed.
        """
        key = msgspec.json.encode(schema)
        matcher = self._kept.get(key)
        if matcher is None:
            matcher = self._kept[key] = self._compiled(schema)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return Structure(matcher.deep_copy(), self._vocab)

    def _compiled(self, schema: dict[str, Any]) -> Any:
        options: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        try:
            grammar = self._new.grammar_from_json_schema(schema, overrides=options)
            matcher = self._new(self._tokenizer, grammar, log_level=0)
            why = matcher.get_error() if matcher.is_error() else ""
        except ValueError as error:
            why = str(error)
        if why:
            hint = "types, enum, const, properties, required, items, anyOf, $ref, ranges, lengths and most patterns are known"
            raise InputError("the schema cannot be followed", why=why.splitlines()[0][:300], hint=hint)
        return matcher
