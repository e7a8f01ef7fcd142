"""Shards of tokens: what `curate` writes and `train` reads, at a position that is one integer.

    manifest.json   tokenizer, packing, and each shard with its counts and digest
    00000.tokens    unsigned little-endian integers, 2 bytes each where the vocabulary allows, else 4
    00000.pieces    records (begin, document): where a piece begins in the shard, and the number of its document, -1: padding

A piece is a document with its end token, or, where documents were packed into sequences, a part of one that is never longer
than a sequence. The files are mapped, not read: opening costs nothing, the system's page cache is the buffer. Shards in order
are one stream; sequence k of length T is its tokens [k T, k T + T]: T inputs and their T targets, one token shared with the
next; packed sequences share none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from gyral.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"
PIECE = np.dtype([("begin", "<i8"), ("document", "<i8")])
PADDING = -1
"""Document of positions that hold nothing."""
Packing = Literal["concatenated", "best_fit"]


class TokenShard(msgspec.Struct, frozen=True):
    """One shard: its file names begin with `name`; `documents` begin in it, `padding` tokens are of none."""

    name: str
    tokens: int
    pieces: int
    documents: int
    padding: int
    tokens_sha256: str
    pieces_sha256: str


class TokenManifest(msgspec.Struct, frozen=True):
    """What `manifest.json` holds.

    Attributes
    ----------
    sequence_tokens : that each packed sequence trains, so it holds one more; 0: concatenated, cut at any length.
    cut_documents : how many were longer than a sequence and became several pieces.
    made_by : digest of the tokenizer, the settings and the documents.
    """

    made_by: str
    tokenizer: str
    vocab_size: int
    eos: int
    width_bytes: int
    packing: Packing
    sequence_tokens: int
    documents: int
    tokens: int
    padding: int
    cut_documents: int
    shards: list[TokenShard]
    format: int = FORMAT

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of the tokens as they lie in the file."""
        return np.dtype(f"<u{self.width_bytes}")


def width_bytes(vocab_size: int) -> int:
    """Bytes of a token: 2 while every number fits."""
    return 2 if vocab_size <= 1 << 16 else 4


class TokenShards:
    """Shards of one folder, mapped.

    Raises
    ------
    InputError : a file is missing or has another size; `verify` compares their digests too.
    """

    def __init__(self, folder: Path, verify: bool = False) -> None:
        self.folder = folder
        path = folder / MANIFEST
        try:
            self.manifest = msgspec.json.decode(path.read_bytes(), type=TokenManifest)
        except (OSError, msgspec.MsgspecError) as error:
            raise _unreadable("the manifest of the tokens", str(error), path) from None
        if self.manifest.format > FORMAT:
            raise _unreadable("the manifest of the tokens", f"it is of format {self.manifest.format}", path)
        shards = self.manifest.shards
        self._tokens = [self._map(each.name + ".tokens", self.manifest.dtype, each.tokens) for each in shards]
        self._pieces = [self._map(each.name + ".pieces", PIECE, each.pieces) for each in shards]
        self._ends = np.cumsum([0, *(each.tokens for each in shards)])
        if verify:
            self.verify()

    def __len__(self) -> int:
        """Sequences, of a packed folder."""
        return self.num_sequences(self.manifest.sequence_tokens)

    @property
    def num_tokens(self) -> int:
        """Tokens of all shards, padding too."""
        return int(self._ends[-1])

    def num_sequences(self, length: int) -> int:
        """How many sequences of this length there are.

        Raises
        ------
        InputError : they were packed to another length.
        """
        return max(0, (self.num_tokens - self._overlap(length)) // self._step(length))

    def tokens(self, begin: int, end: int) -> np.ndarray:
        """Tokens [begin, end) of the stream: a view of the file within a shard, else a copy."""
        found = [self._tokens[shard][low:high] for shard, low, high in self._inside(begin, end)]
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty(0, self.manifest.dtype)

    def pieces(self) -> np.ndarray:
        """All pieces in the order of the stream, `begin` counted from its start; in memory, 16 bytes each."""
        found = [np.array(each) for each in self._pieces]
        for shard, first in zip(found, self._ends[:-1].tolist(), strict=True):
            shard["begin"] += first
        return np.concatenate(found) if found else np.empty(0, PIECE)

    def documents(self, begin: int, end: int) -> np.ndarray:
        """Number of the document that each token [begin, end) of the stream is of, int64; -1: padding."""
        found = []
        for shard, low, high in self._inside(begin, end):
            pieces = self._pieces[shard]
            first = int(np.searchsorted(pieces["begin"], low, side="right")) - 1
            last = int(np.searchsorted(pieces["begin"], high, side="left"))
            begins = np.maximum(pieces["begin"][first:last], low)
            found.append(np.repeat(pieces["document"][first:last], np.diff(np.append(begins, high))))
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def sequences(self, positions: np.ndarray, length: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Sequences at these positions.

        Parameters
        ----------
        positions : integers in [0, num_sequences(length)), [B].
        length : tokens that a sequence trains; 0: as packed.

        Returns
        -------
        tokens, documents : uint32 and int64 [B, length + 1]. Tokens of two documents do not see each other where a mask is
        made of `documents`; a target of document -1 has no loss.
        """
        length = length or self.manifest.sequence_tokens
        step, total = self._step(length), self.num_sequences(length)
        tokens = np.empty((len(positions), length + 1), np.uint32)
        documents = np.empty((len(positions), length + 1), np.int64)
        for row, position in enumerate(np.asarray(positions).tolist()):
            if not 0 <= position < total:
                raise InputError(f"there is no sequence {position}", where=str(self.folder), why=f"there are {total}")
            begin = position * step
            tokens[row] = self.tokens(begin, begin + length + 1)
            documents[row] = self.documents(begin, begin + length + 1)
        return tokens, documents

    def verify(self) -> None:
        """Compare every file with its digest.

        Raises
        ------
        InputError : one differs.
        """
        for shard in self.manifest.shards:
            for ending, digest in ((".tokens", shard.tokens_sha256), (".pieces", shard.pieces_sha256)):
                path = self.folder / (shard.name + ending)
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        raise _unreadable(f"`{path.name}`", "its bytes are not those that were written", path)

    def _map(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        path = self.folder / name
        size = path.stat().st_size if path.exists() else -1
        if size != count * dtype.itemsize:
            why = "it is missing" if size < 0 else f"it has {size} bytes instead of {count * dtype.itemsize}"
            raise _unreadable(f"`{name}`", why, path)
        return np.memmap(path, dtype, "r") if count else np.empty(0, dtype)

    def _inside(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """Shards that hold tokens [begin, end), and which of theirs."""
        first = int(np.searchsorted(self._ends, begin, side="right")) - 1
        found = []
        while begin < end and first < len(self._tokens):
            low, high = int(self._ends[first]), min(end, int(self._ends[first + 1]))
            if begin < high:
                found.append((first, begin - low, high - low))
            begin, first = max(begin, high), first + 1
        return found

    def _overlap(self, length: int) -> int:
        return 0 if self.manifest.packing == "best_fit" else 1

    def _step(self, length: int) -> int:
        packed = self.manifest.sequence_tokens
        if self.manifest.packing == "best_fit" and length != packed:
            hint = f"ask for {packed}, or make them again: `--set tokens.sequence_tokens={length}`"
            raise InputError(f"the tokens were packed to {packed}, not to {length}", where=str(self.folder), hint=hint)
        if length < 1:
            raise InputError("a sequence has one token at least", where=str(self.folder))
        return length + 1 - self._overlap(length)


def _unreadable(what: str, why: str, path: Path) -> InputError:
    return InputError(f"{what} cannot be used", why=why, where=str(path), hint="make them again: `gyral curate`")
