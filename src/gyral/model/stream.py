"""Documents as one stream of tokens: what a language model trains on, and what it is measured on, to the last byte.

Each document is ended by `end`, and the same token stands before the first: so the first byte of a text is foretold too, from
"here a text begins", and bits per byte are those a receiver would need to read the text and to know where it stops. Text over
bytes is held as one byte a byte (the ends are known by place), tokens of a tokenizer as 2 or 4: 100 MB of text are 100 MB in
each rank, against 900 MB as a list of Python strings with their int64 tokens.

Which document is kept aside is a function of the document: of a hash of its digest. So the two sides never share a copy, and
documents that are added later move no other.

Shapes: B rows, T positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from gyral.lake.tokens import PADDING
from gyral.model.task import Batch

IGNORED = -100
"""Target without loss; the number that transformers knows, too."""


class Sequences(Protocol):
    """Tokens that training reads: `Stream`, or what is left of `gyral.lake.tokens.TokenShards`."""

    def num_sequences(self, length: int) -> int: ...

    def sequences(self, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]: ...


class Window(NamedTuple):
    """Rows to be measured: tokens and documents [B, T + 1], and which of the T targets are counted in them."""

    tokens: np.ndarray
    documents: np.ndarray
    counted: np.ndarray


class Stream:
    """Documents in memory, one after the other.

    Parameters
    ----------
    tokens : of all documents, a place for the end of each included; unsigned, any width.
    ends : where each document ends, its end included, int64 [n].
    end : the token that ends a document; what stands in its places does not matter.
    sizes : bytes of the text of each document, int64 [n].
    """

    def __init__(self, tokens: np.ndarray, ends: np.ndarray, end: int, sizes: np.ndarray) -> None:
        self._tokens, self.ends, self.end, self.sizes = tokens, ends, end, sizes

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def num_bytes(self) -> int:
        """Of all texts."""
        return int(self.sizes.sum())

    def num_sequences(self, length: int) -> int:
        """How many of this length there are; what is left over is not trained on."""
        return len(self._tokens) // length

    def sequences(self, positions: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of T inputs and their T targets, as `TokenShards.sequences` gives them: tokens, documents [B, T + 1]."""
        return self.rows(positions.astype(np.int64) * length, length)

    def rows(self, begins: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows whose first target is at these places; beyond the last document is padding."""
        at = begins[:, None] + np.arange(-1, length)
        documents = np.searchsorted(self.ends, np.maximum(at, 0), side="right")
        is_inside = (at >= 0) & (at < len(self._tokens))
        tokens = np.full(at.shape, self.end, np.uint32)
        tokens[is_inside] = self._tokens[at[is_inside]]
        is_end = np.zeros(at.shape, bool)
        is_end[is_inside] = self.ends[documents[is_inside]] == at[is_inside] + 1
        tokens[is_end] = self.end
        documents[~is_inside] = PADDING
        return tokens, documents

    def windows(self, length: int, stride: int, rows: int) -> Iterator[Window]:
        """Rows that count each target once.

        Parameters
        ----------
        stride : targets that each row but the first adds; less than `length` gives a target at least the `length - stride`
            tokens before it, at `length / stride` times the cost.
        rows : at once.
        """
        count = 1 + max(0, -(-(len(self._tokens) - length) // stride)) if len(self._tokens) else 0
        for first in range(0, count, rows):
            numbers = np.arange(first, min(first + rows, count))
            tokens, documents = self.rows(numbers * stride, length)
            counted = documents[:, 1:] != PADDING
            counted[numbers > 0, : length - stride] = False
            yield Window(tokens, documents, counted)


class Text(Stream):
    """Texts as bytes."""

    END = 256
    VOCAB = 257

    def __init__(self, texts: Sequence[bytes]) -> None:
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        body = np.frombuffer(b"\0".join([*texts, b""]), np.uint8)
        super().__init__(body, np.cumsum(sizes + 1), self.END, sizes)


def joined(parts: Sequence[Stream]) -> Stream:
    """Streams of the same tokens, one after the other."""
    if len(parts) == 1:
        return parts[0]
    before = np.cumsum([0, *(len(each) for each in parts[:-1])])
    ends = np.concatenate([each.ends + start for each, start in zip(parts, before, strict=True)])
    tokens = np.concatenate([each._tokens for each in parts])
    return Stream(tokens, ends, parts[0].end, np.concatenate([each.sizes for each in parts]))


def rows_of(tokens: np.ndarray, documents: np.ndarray, is_masked: bool = True) -> Batch:
    """Inputs, targets, positions and, where documents are hidden from each other, `documents`, each [B, T].

    A position belongs to the document of its *target*: the end token before a document is where that begins. Positions begin
    anew with each document.

    Parameters
    ----------
    is_masked : False leaves out `documents`, so a model sees what comes before its document in the row.
    """
    inside = documents[:, 1:]
    begins = np.ones(inside.shape, bool)
    begins[:, 1:] = inside[:, 1:] != inside[:, :-1]
    at = np.arange(inside.shape[1])
    targets = tokens[:, 1:].astype(np.int64)
    targets[inside == PADDING] = IGNORED
    batch = {
        "inputs": torch.from_numpy(tokens[:, :-1].astype(np.int64)),
        "targets": torch.from_numpy(targets),
        "positions": torch.from_numpy(at - np.maximum.accumulate(np.where(begins, at, 0), axis=1)),
    }
    if is_masked:  # also where each row is of one document: ranks of a pipeline agree on what a batch holds before they see one
        batch["documents"] = torch.from_numpy(np.cumsum(begins, axis=1))
    return batch


def digest_of(body: bytes) -> bytes:
    """What two copies of a document have in common: 16 bytes."""
    return hashlib.blake2b(body, digest_size=16).digest()


def kept_aside(digests: Sequence[bytes], share: float) -> np.ndarray:
    """Which documents are measured on and never trained on, bool [n]: by their digests alone, so of copies all or none.

    One distinct document at least where there are two: that with the lowest hash.
    """
    ranks = [_rank(each) for each in digests]
    bound = int(share * 2**64)
    distinct = sorted(set(ranks))
    if len(distinct) > 1:
        bound = min(max(bound, distinct[0] + 1), distinct[-1])
    return np.fromiter((rank < bound for rank in ranks), bool, len(ranks))


def is_aside(digest: bytes, share: float) -> bool:
    """Whether a document is measured on and never trained on, where nobody knows the others."""
    return _rank(digest) < int(share * 2**64)


def _rank(digest: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(digest, digest_size=8, key=b"held out").digest(), "little")


def first_of_each(digests: Iterable[bytes]) -> np.ndarray:
    """Places of the first of all copies, in the order of the digests: the same however documents are ordered."""
    first: dict[bytes, int] = {}
    for place, digest in enumerate(digests):
        first.setdefault(digest, place)
    return np.array([first[digest] for digest in sorted(first)], np.int64)
