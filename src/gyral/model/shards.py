"""Shards of tokens without the documents that are kept aside, and those documents as a stream.

What `curate` wrote knows no side, and a document's number there is its place in the mixture; so a document is told by its
tokens: their number, the first and the last of them, hashed. Copies agree in that; two different documents that do so land on
one side, which harms nobody. Only the pages of the file that hold those tokens are read: opening 100 MB of tokens takes about
3 s a million documents, not the time to read them all.

- `concatenated`: what is left is one stream again, documents one after the other, cut at any length.
- `best_fit`: sequences stay as they were packed; what is kept aside in one has no loss and is seen by nobody, and sequences
  that hold nothing else are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gyral.lake.tokens import PADDING, TokenShards
from gyral.model.stream import Stream, digest_of, first_of_each, kept_aside
from gyral.model.tokenizer import Tokenizer

MARKED = 64
"""Tokens at each end of a document that it is told by."""


class Shards:
    """Tokens of a dataset, divided into what is trained on and what is not.

    Parameters
    ----------
    share : of the documents that is kept aside.
    aside : digests (`digest_of_tokens`) of documents to keep aside instead, where the dataset says so itself.
    """

    def __init__(self, shards: TokenShards, share: float, aside: set[bytes] | None = None) -> None:
        self.shards, self.end = shards, shards.manifest.eos
        pieces = shards.pieces()
        self._begins, self._documents = pieces["begin"].astype(np.int64), pieces["document"].astype(np.int64)
        self._sizes = np.diff(np.append(self._begins, shards.num_tokens))
        number = shards.manifest.documents
        self._order = np.lexsort((np.arange(len(pieces)), self._sizes <= shards.manifest.sequence_tokens, self._documents))
        self._firsts = np.searchsorted(self._documents[self._order], np.arange(number + 1))
        self._digests = [self._digest(document) for document in range(number)]
        if aside is None:
            self.is_aside = kept_aside(self._digests, share)
        else:
            self.is_aside = np.fromiter((each in aside for each in self._digests), bool, number)
        self._is_trained = (self._documents != PADDING) & ~self.is_aside[self._documents]
        self._parts = np.flatnonzero(self._is_trained)
        self._ends = np.cumsum(self._sizes[self._parts])
        self._rows = self._packed_rows() if shards.manifest.packing == "best_fit" else np.empty(0, np.int64)

    def num_sequences(self, length: int) -> int:
        """How many of this length there are to train on.

        Raises
        ------
        InputError : they were packed to another length.
        """
        if self.shards.manifest.packing == "best_fit":
            self.shards.num_sequences(length)
            return len(self._rows)
        return int(self._ends[-1]) // length if len(self._ends) else 0

    def sequences(self, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TokenShards.sequences`; what is kept aside is of document −1."""
        if self.shards.manifest.packing == "best_fit":
            tokens, documents = self.shards.sequences(self._rows[positions], length)
            documents[(documents != PADDING) & self.is_aside[documents]] = PADDING
            return tokens, documents
        tokens = np.empty((len(positions), length + 1), np.uint32)
        documents = np.empty((len(positions), length + 1), np.int64)
        for row, position in enumerate(positions.tolist()):
            tokens[row], documents[row] = self._row(position * length - 1, length + 1)
        return tokens, documents

    def held_out(self, tokenizer: Tokenizer, limit_bytes: int) -> Stream:
        """Documents that are kept aside, one of each, until they have this many bytes of text."""
        tokens: list[np.ndarray] = []
        sizes: list[int] = []
        numbers = np.flatnonzero(self.is_aside)
        for number in numbers[first_of_each(self._digests[each] for each in numbers.tolist())].tolist():
            body = self._tokens(number)
            size = len(tokenizer.decode(body[:-1]).encode())
            if sizes and sum(sizes) + size > limit_bytes:
                break
            tokens.append(body)
            sizes.append(size)
        return stream_of(tokens, self.end, sizes, self.shards.manifest.dtype)

    def _row(self, first: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the stream that is left, from a place on; before its first stands an end."""
        tokens, documents = np.full(number, self.end, np.uint32), np.full(number, PADDING, np.int64)
        at = max(0, -first)
        part = int(np.searchsorted(self._ends, first + at, side="right"))
        while at < number and part < len(self._parts):
            piece = self._parts[part]
            begin = int(first + at - (self._ends[part] - self._sizes[piece]))
            size = int(min(number - at, self._sizes[piece] - begin))
            low = int(self._begins[piece]) + begin
            tokens[at : at + size] = self.shards.tokens(low, low + size)
            documents[at : at + size] = self._documents[piece]
            at, part = at + size, part + 1
        return tokens, documents

    def _tokens(self, document: int) -> np.ndarray:
        """All tokens of a document, its pieces in order, the one that is shorter than a sequence last."""
        pieces = self._order[self._firsts[document] : self._firsts[document + 1]]
        parts = [self.shards.tokens(int(self._begins[each]), int(self._begins[each] + self._sizes[each])) for each in pieces]
        return np.concatenate(parts)

    def _digest(self, document: int) -> bytes:
        pieces = self._order[self._firsts[document] : self._firsts[document + 1]]
        first, last, size = pieces[0], pieces[-1], int(self._sizes[pieces].sum())
        if len(pieces) > 1 and min(self._sizes[first], self._sizes[last]) < MARKED:
            return digest_of_tokens(self._tokens(document))
        head = self.shards.tokens(int(self._begins[first]), int(self._begins[first] + min(MARKED, self._sizes[first])))
        end = int(self._begins[last] + self._sizes[last])
        return _digest_of(head, self.shards.tokens(end - int(min(MARKED, self._sizes[last])), end), size)

    def _packed_rows(self) -> np.ndarray:
        """Packed sequences that hold something to train on."""
        step = self.shards.manifest.sequence_tokens + 1
        return np.unique(self._begins[self._is_trained] // step)


def digest_of_tokens(tokens: np.ndarray) -> bytes:
    """What copies of a document have in common; `tokens` with its end."""
    return _digest_of(tokens[:MARKED], tokens[-MARKED:], len(tokens))


def stream_of(tokens: Sequence[np.ndarray], end: int, sizes: Sequence[int], dtype: np.dtype) -> Stream:
    """Documents, each with its end, as a stream; `sizes` are the bytes of their texts."""
    ends = np.cumsum([len(each) for each in tokens], dtype=np.int64)
    body = np.concatenate(tokens).astype(dtype) if tokens else np.empty(0, dtype)
    return Stream(body, ends, end, np.array(sizes, np.int64))


def encoded(texts: Sequence[str], tokenizer: Tokenizer, end: int) -> Stream:
    """Texts as a stream of a tokenizer's tokens."""
    tokens, lengths = tokenizer.encode(texts)
    ends = np.cumsum(lengths + 1)
    body = np.full(int(ends[-1]) if len(ends) else 0, end, np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    keep = np.ones(len(body), bool)
    keep[ends - 1] = False
    body[keep] = tokens
    return Stream(body, ends, end, np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts)))


def _digest_of(head: np.ndarray, tail: np.ndarray, number: int) -> bytes:
    return digest_of(number.to_bytes(8, "little") + head.astype("<u4").tobytes() + tail.astype("<u4").tobytes())
