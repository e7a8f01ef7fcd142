"""Text → tokens, one way for curation, training and serving: a `tokenizer.json` as the library `tokenizers` writes it.

The library returns Python lists; here tokens are one flat uint32 array and the lengths of the texts, which is what shards and
batches are made of. The tokens of a text do not depend on what else is in its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gyral.errors import InputError, MissingExtra, UsageError
from gyral.files import write_atomic

FILE = "tokenizer.json"
_PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PLAIN]
_BYTES = {chr(byte): byte for byte in _PLAIN} | {chr(256 + place): byte for place, byte in enumerate(_OTHERS)}
"""Letters that tokenizers over bytes (GPT-2's way) write bytes with."""


class Encoded(NamedTuple):
    """Tokens of some texts one after the other, uint32, and how many each has, int64 [n]."""

    tokens: np.ndarray
    lengths: np.ndarray


class Tokenizer:
    """One tokenizer.

    Parameters
    ----------
    body : of a `tokenizer.json`.
    where : it comes from, for errors.

    Raises
    ------
    InputError : it is no tokenizer.  MissingExtra : `tokenizers` is not installed.
    """

    def __init__(self, body: bytes, where: str = "") -> None:
        self.body = body
        try:
            from tokenizers import Tokenizer as Library
        except ImportError:
            raise MissingExtra("tokenizers", "tokens", "a tokenizer") from None
        try:
            self._library: Any = Library.from_str(body.decode())
        except Exception as error:  # the library raises plain `Exception`
            hint = "it must be a `tokenizer.json` of the library `tokenizers`"
            raise InputError("the tokenizer cannot be read", why=str(error)[:200], where=where, hint=hint) from None
        self._library.no_padding()
        self._library.no_truncation()  # a setting left in the file would cut documents
        self._library.encode_special_tokens = True  # a text that spells a special token must not become it

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json`, or that of a folder."""
        file = path / FILE if path.is_dir() else path
        try:
            return cls(file.read_bytes(), str(file))
        except OSError as error:
            raise InputError("the tokenizer cannot be read", why=error.strerror or "", where=str(file)) from None

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json` as it was read."""
        path = folder / FILE
        write_atomic(path, self.body)
        return path

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of its file: equal ones make equal tokens."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def vocab_size(self) -> int:
        """Tokens there are, special ones too."""
        return int(self._library.get_vocab_size())

    def id_of(self, token: str) -> int:
        """The number of a token.

        Raises
        ------
        UsageError : there is no such token.
        """
        number = self._library.token_to_id(token)
        if number is None:
            raise UsageError(f"the tokenizer has no token `{token}`", hint="name one of its own: `--set tokens.eos=…`")
        return int(number)

    def token_of(self, number: int) -> str:
        """The token of a number.

        Raises
        ------
        UsageError : there is no such number.
        """
        token = self._library.id_to_token(number)
        if token is None:
            raise UsageError(f"the tokenizer has no token {number}")
        return str(token)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Tokens of each text; none is added, and what looks like a special token in a text is plain text."""
        found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [each.ids for each in found]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        tokens = np.empty(int(lengths.sum()), np.uint32)
        at = 0
        for each in ids:
            tokens[at : at + len(each)] = each
            at += len(each)
        return Encoded(tokens, lengths)

    def encode_marked(self, text: str) -> list[int]:
        """Tokens of a text that this program wrote itself: what spells a special token in it is that token."""
        found: list[int] = self._marked.encode(text, add_special_tokens=False).ids
        return found

    @cached_property
    def _marked(self) -> Any:
        marked = type(self._library).from_str(self.body.decode())
        marked.no_padding()
        marked.no_truncation()
        return marked

    def bytes_of(self, token: int) -> bytes:
        """What one token stands for, which may be a part of a letter; of a number that is no token, nothing."""
        text = self._library.id_to_token(token) or ""
        if token not in self._specials and all(letter in _BYTES for letter in text):  # as tokenizers over bytes spell it
            return bytes(_BYTES[letter] for letter in text)
        return str(self._library.decode([token], skip_special_tokens=False)).encode()

    @cached_property
    def _specials(self) -> frozenset[int]:
        return frozenset(self._library.get_added_tokens_decoder())

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens, special ones included."""
        return str(self._library.decode([int(token) for token in tokens], skip_special_tokens=False))
