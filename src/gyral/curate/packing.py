"""Documents of tokens → shards: where they are cut, in what order they are packed, and how a killed run goes on.

What a shard holds depends on the documents and their order alone: not on how they came in batches, nor on who encoded them. A
shard is closed by the document that would make it longer than `shard_tokens`, so a document is in one shard, and after a kill
only the shard that was being filled is made again.

- `concatenated`: documents one after the other, cut anywhere by the reader. No waste; a sequence begins within a document.
- `best_fit`: a document stays whole unless it is longer than a sequence, whose full parts are then sequences; the rest and the
  shorter ones are packed largest first, each where the least room is left that suffices; what stays free is padding: .06 % of
  5,478 pages of documentation in sequences of 2,048 (`benchmarks/curate/tokens.py`). Room is found by the bits of one integer.

Source: Ding et al. 2024, "Fewer truncations improve language modeling", section 3 (best-fit decreasing over document chunks).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from gyral.config.curation import Tokens
from gyral.files import make_folder, write_atomic
from gyral.lake.tokens import MANIFEST, PADDING, PIECE, TokenManifest, TokenShard, width_bytes
from gyral.model.tokenizer import Encoded, Tokenizer

PROGRESS = "progress.json"


class _Progress(msgspec.Struct):
    """Shards that are done and what they were made by; the next document is the first that is in none."""

    made_by: str
    next_document: int = 0
    cut_documents: int = 0
    shards: list[TokenShard] = []


class _Filling(msgspec.Struct):
    """Documents of the shard that is being filled, each with its end token."""

    documents: list[np.ndarray] = []
    tokens: int = 0


def write_shards(
    folder: Path, documents: Callable[[int], Iterable[Encoded]], tokenizer: Tokenizer, settings: Tokens, source: str = ""
) -> TokenManifest:
    """Write all shards and, last, their manifest.

    Called again it goes on after the last whole shard, or returns at once where all is there; what was made by another
    tokenizer, other settings or of another source is made anew.

    Parameters
    ----------
    documents : first document → the tokens of it and of all after it, in batches of any size. Asked once.
    source : what the documents are, a digest.
    """
    eos = tokenizer.id_of(settings.eos)
    width = width_bytes(tokenizer.vocab_size)
    length = settings.sequence_tokens if settings.packing == "best_fit" else 0
    made_of = (tokenizer.fingerprint, eos, settings.packing, length, settings.shard_tokens, source)
    made_by = hashlib.sha256(repr(made_of).encode()).hexdigest()
    make_folder(folder)
    done = _done(folder, made_by)
    if done is not None:
        return done
    state, filling = _resume(folder, made_by), _Filling()
    for document in _documents(documents(state.next_document), eos, width):
        if filling.documents and filling.tokens + len(document) > settings.shard_tokens:
            _close(folder, state, filling, eos, length)
        filling.documents.append(document)
        filling.tokens += len(document)
    if filling.documents:
        _close(folder, state, filling, eos, length)
    manifest = TokenManifest(
        made_by=made_by,
        tokenizer=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eos=eos,
        width_bytes=width,
        packing=settings.packing,
        sequence_tokens=length,
        documents=state.next_document,
        tokens=sum(each.tokens for each in state.shards),
        padding=sum(each.padding for each in state.shards),
        cut_documents=state.cut_documents,
        shards=state.shards,
    )
    tokenizer.save(folder)
    write_atomic(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    (folder / PROGRESS).unlink(missing_ok=True)
    return manifest


def pack(lengths: np.ndarray, room: int) -> list[list[tuple[int, int, int]]]:
    """Pieces of documents → sequences with this much room, best fit decreasing.

    Returns
    -------
    For each sequence its pieces (document, begin, end), in the order of the first document of each.
    """
    sequences: list[list[tuple[int, int, int]]] = []
    short: list[tuple[int, int, int]] = []
    for document, length in enumerate(lengths.tolist()):
        whole = length // room * room
        sequences += [[(document, begin, begin + room)] for begin in range(0, whole, room)]
        if whole < length:
            short.append((document, whole, length))
    short.sort(key=lambda piece: piece[1] - piece[2])  # stable: of equal ones the first document first
    free: list[list[int]] = [[] for _ in range(room + 1)]
    there = 0  # bit r: a sequence has room r
    for piece in short:
        need = piece[2] - piece[1]
        fitting = there >> need
        if fitting:
            left = need + (fitting & -fitting).bit_length() - 1
            number = free[left].pop()
            if not free[left]:
                there ^= 1 << left
            sequences[number].append(piece)
        else:
            left, number = room, len(sequences)
            sequences.append([piece])
        left -= need
        if left:
            free[left].append(number)
            there |= 1 << left
    for sequence in sequences:
        sequence.sort()
    sequences.sort()
    return sequences


def _documents(batches: Iterable[Encoded], eos: int, width: int) -> Iterator[np.ndarray]:
    """Documents one by one, each with its end token, as they are stored."""
    for tokens, lengths in batches:
        ends = np.cumsum(lengths + 1)
        with_eos = np.full(len(tokens) + len(lengths), eos, f"<u{width}")
        keep = np.ones(len(with_eos), bool)
        keep[ends - 1] = False
        with_eos[keep] = tokens
        yield from np.split(with_eos, ends[:-1]) if len(ends) else ()


def _close(folder: Path, state: _Progress, filling: _Filling, eos: int, length: int) -> None:
    """Write the shard that was filled, then note that it is there."""
    documents, first = filling.documents, state.next_document
    lengths = np.array([len(each) for each in documents])
    if length:
        sequences = pack(lengths, length + 1)
        stream, pieces = _lay(documents, sequences, length + 1, eos)
        state.cut_documents += int((lengths > length + 1).sum())
    else:
        stream = np.concatenate(documents)
        pieces = np.zeros(len(documents), PIECE)
        pieces["begin"], pieces["document"] = np.cumsum(lengths) - lengths, np.arange(len(documents))
    pieces["document"][pieces["document"] != PADDING] += first
    name = f"{len(state.shards):05d}"
    digests = []
    for ending, array in ((".tokens", stream), (".pieces", pieces)):
        body = array.tobytes()
        write_atomic(folder / (name + ending), body)
        digests.append(hashlib.sha256(body).hexdigest())
    padding = len(stream) - int(lengths.sum())
    state.shards.append(TokenShard(name, len(stream), len(pieces), len(documents), padding, *digests))
    state.next_document = first + len(documents)
    write_atomic(folder / PROGRESS, msgspec.json.encode(state))
    filling.documents, filling.tokens = [], 0


def _lay(
    documents: list[np.ndarray], sequences: list[list[tuple[int, int, int]]], room: int, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put pieces where they were packed; the rest of a sequence is padding, a piece of its own."""
    stream = np.full(len(sequences) * room, eos, documents[0].dtype)
    pieces: list[tuple[int, int]] = []
    for number, sequence in enumerate(sequences):
        at = number * room
        for document, begin, end in sequence:
            pieces.append((at, document))
            stream[at : at + end - begin] = documents[document][begin:end]
            at += end - begin
        if at < (number + 1) * room:
            pieces.append((at, PADDING))
    return stream, np.array(pieces, PIECE)


def _done(folder: Path, made_by: str) -> TokenManifest | None:
    """The manifest of a folder that has all; one made by something else is taken away."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    with suppress(msgspec.MsgspecError):
        manifest = msgspec.json.decode(path.read_bytes(), type=TokenManifest)
        if manifest.made_by == made_by:
            return manifest
    path.unlink()
    return None


def _resume(folder: Path, made_by: str) -> _Progress:
    """What a run before this one has done of the same; else files of others are taken away."""
    path = folder / PROGRESS
    with suppress(OSError, msgspec.MsgspecError):
        state = msgspec.json.decode(path.read_bytes(), type=_Progress)
        if state.made_by == made_by:
            return state
    path.unlink(missing_ok=True)
    for pattern in ("*.tokens", "*.pieces"):
        for left in folder.glob(pattern):
            left.unlink()
    return _Progress(made_by)
