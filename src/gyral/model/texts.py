"""The text of a dataset as tokens, on two sides: what is trained on, and what is kept aside to measure on.

Both verbs that make models need it: `train` measures on what it kept aside, `compress` on the same text again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gyral.config.training import Lm
from gyral.errors import InputError
from gyral.lake import documents
from gyral.lake.dataset import Dataset
from gyral.lake.tokens import MANIFEST, TokenShards
from gyral.model.decoder import Decoder
from gyral.model.shards import Shards, digest_of_tokens, encoded
from gyral.model.stream import Sequences, Stream, Text, digest_of, first_of_each, kept_aside
from gyral.model.tokenizer import Tokenizer

SPLIT, TRAINED = "split", "train"
TOKENS = "tokens"


class Opened(NamedTuple):
    """Text as tokens.

    Attributes
    ----------
    name : `bytes`, or the fingerprint of the tokenizer.
    """

    trained: Sequences
    held_out: Stream
    name: str
    vocab: int
    end: int
    tokenizer: bytes


class Texts(NamedTuple):
    """The texts of a dataset, on the two sides; of those kept aside, one of each."""

    trained: list[bytes]
    held_out: list[bytes]


def opened(data: Dataset, by: Lm, start: Decoder | None) -> Opened:
    """The text of a dataset as tokens: those of `start`, of its shards, or bytes.

    Raises
    ------
    InputError : there is no text, or none in such tokens.
    """
    folder = data.folder / TOKENS
    has_shards = (folder / MANIFEST).exists()
    if by.tokens == "shards" and not has_shards:
        hint = f"`gyral curate {data.name.partition('@')[0]} --set tokens.write=true`, or `--set lm.tokens=bytes`"
        raise InputError(f"`{data.name}` has no tokens", where=str(folder), hint=hint)
    tokenizer = Tokenizer(start.tokenizer) if start and start.tokenizer and start.tokens != "bytes" else None
    if has_shards and by.tokens != "bytes" and (start is None or tokenizer is not None):
        shards = TokenShards(folder)
        if tokenizer is None or tokenizer.fingerprint == shards.manifest.tokenizer:
            return _of_shards(data, shards, by)
    documents.verify(data)
    texts = _texts(data, by.held_out, by.held_out_bytes)
    if tokenizer is None:
        if start is not None and start.shape.vocab < Text.VOCAB:
            what = f"a model of {start.shape.vocab} tokens and no tokenizer cannot read bytes"
            raise InputError(what, where=data.name, hint="put its `tokenizer.json` into the folder of `train.start`")
        return Opened(Text(texts.trained), Text(texts.held_out), "bytes", Text.VOCAB, Text.END, b"")
    end = start.end if start else 0
    trained, held_out = (encoded([text.decode() for text in each], tokenizer, end) for each in texts)
    return Opened(trained, held_out, tokenizer.fingerprint, tokenizer.vocab_size, end, tokenizer.body)


def _of_shards(data: Dataset, shards: TokenShards, by: Lm) -> Opened:
    shards.verify()
    tokenizer = Tokenizer.load(shards.folder)
    aside = None
    if _has_split(data):
        texts = _texts(data, by.held_out, 1 << 62).held_out
        found = encoded([text.decode() for text in texts], tokenizer, shards.manifest.eos)
        bodies, _ = found.rows(np.zeros(1, np.int64), len(found))
        aside = {digest_of_tokens(each) for each in np.split(bodies[0, 1:], found.ends[:-1])} if len(found) else set()
    divided = Shards(shards, by.held_out, aside)
    held_out = divided.held_out(tokenizer, by.held_out_bytes)
    return Opened(divided, held_out, tokenizer.fingerprint, shards.manifest.vocab_size, shards.manifest.eos, tokenizer.body)


def _texts(data: Dataset, share: float, limit_bytes: int) -> Texts:
    """Both sides; a document that stands alone is cut, and its last part kept aside."""
    texts: list[bytes] = []
    split: list[str] = []
    copies: list[int] = []
    times, at = documents.copies(data), 0
    for batch in documents.batches(data, (SPLIT,)):
        names = batch.column(SPLIT).to_pylist() if SPLIT in batch.schema.names else [""] * batch.num_rows
        for text, name in zip(batch.column("text").to_pylist(), names, strict=True):
            if text:
                texts.append(text.encode())
                split.append(name or "")
                copies.append(int(times[at]) if times is not None else 1)
            at += 1
    if not texts:
        raise InputError(f"`{data.name}` holds no text", hint=f"`gyral show {data.name}` tells what was dropped, and why")
    digests = [digest_of(text) for text in texts]
    if any(split):
        outside = {digest for digest, name in zip(digests, split, strict=True) if name != TRAINED}
        is_aside = np.fromiter((each in outside for each in digests), bool, len(digests))
    elif len(set(digests)) == 1:
        text = texts[0].decode()
        cut = max(1, round(len(text) * (1 - share)))
        return Texts([text[:cut].encode()], [text[cut:].encode()][: cut < len(text)])
    else:
        is_aside = kept_aside(digests, share)
    sides = zip(texts, is_aside.tolist(), copies, strict=True)
    trained = [text for text, aside, count in sides if not aside for _ in range(count)]
    return Texts(trained, _limited(texts, digests, is_aside, limit_bytes))


def _limited(texts: Sequence[bytes], digests: Sequence[bytes], is_aside: np.ndarray, limit_bytes: int) -> list[bytes]:
    """One of each text kept aside, in the order of their digests, until they have so many bytes."""
    numbers = np.flatnonzero(is_aside)
    found: list[bytes] = []
    size = 0
    for number in numbers[first_of_each(digests[each] for each in numbers.tolist())].tolist():
        if found and size + len(texts[number]) > limit_bytes:
            break
        found.append(texts[number])
        size += len(texts[number])
    return found


def _has_split(data: Dataset) -> bool:
    return any(SPLIT in batch.schema.names for batch in documents.batches(data, (SPLIT,)))
