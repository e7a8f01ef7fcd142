"""Training a tokenizer, turning texts into tokens, and what a token is worth in each language.

Byte-level BPE, so every text comes back byte for byte and nothing is unknown. Words are cut as recent models cut them: letters
with their marks (Indic and Thai vowels stay with their letters), up to three digits, punctuation, line ends. Training is the
library's; what is decided here is what it is trained on (the documents in the order of the mix, so that its vocabulary is
divided as the training tokens will be) and that equal documents, settings and order give the same file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from gyral.config.curation import Tokens
from gyral.curate.mix import Sampler
from gyral.engine.base import Engine
from gyral.errors import MissingExtra
from gyral.model.tokenizer import Encoded, Tokenizer

WORDS = r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where merges stop. Source: the pattern of GPT-4o (tiktoken, `o200k_base`), without its split by letter case and `'s`."""
BATCH_BYTES = 1 << 20
_WORD = re.compile(r"\w+")


class Fertility(msgspec.Struct, frozen=True):
    """What a tokenizer makes of one language; words are runs of letters and digits, so in Chinese or Thai they are clauses."""

    language: str
    documents: int
    size_bytes: int
    tokens: int
    tokens_per_word: float
    tokens_per_char: float
    bytes_per_token: float


def train(batches: Iterable[pa.Array], settings: Tokens) -> Tokenizer:
    """Train on the first `train_bytes` of text.

    Parameters
    ----------
    batches : arrays of strings, in the order of the mix (`drawn`); nulls are passed over.

    Raises
    ------
    MissingExtra : `tokenizers` is not installed.
    """
    try:
        from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as Library
    except ImportError:
        raise MissingExtra("tokenizers", "tokens", "training a tokenizer") from None
    library = Library(models.BPE())
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), bytes_of])
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=list(dict.fromkeys([settings.eos, *settings.special])),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(_until(batches, settings.train_bytes), trainer)
    return Tokenizer(library.to_str(pretty=True).encode())


def encode(tokenizer: Path, texts: Sequence[str]) -> Encoded:
    """Tokens of some texts; a process loads a tokenizer once."""
    return _loaded(str(tokenizer), tokenizer.stat().st_mtime_ns).encode(texts)


def encoded(engine: Engine, tokenizer: Path, batches: Iterable[pa.Array]) -> Iterator[Encoded]:
    """Tokens of all texts in their order, made by the workers of an engine; a null is an empty document."""
    yield from engine.map(partial(encode, tokenizer), _cut(batches))


def drawn(texts: pa.Array, sampler: Sampler, passes: int = 1) -> Callable[[int], Iterator[pa.Array]]:
    """The texts in the order of a mix: position of the first → batches, what `write_shards` numbers documents by."""

    def batches(first: int) -> Iterator[pa.Array]:
        mean = max(1, texts.nbytes // max(1, len(texts)))
        count = max(1, min(4_096, BATCH_BYTES // mean))
        for documents in sampler.stream(first, passes * len(sampler), batch=count):
            yield texts.take(pa.array(documents))

    return batches


def fertility(tokenizer: Tokenizer, texts: Sequence[str], languages: Sequence[str]) -> list[Fertility]:
    """What the tokenizer makes of each language, the one with the most bytes first."""
    lengths = tokenizer.encode(texts).lengths
    counts = np.array([(1, len(text.encode()), len(text), len(_WORD.findall(text))) for text in texts], np.int64)
    lines = []
    for language in sorted(set(languages)):
        inside = np.flatnonzero([each == language for each in languages])
        documents, size_bytes, chars, words = counts[inside].sum(axis=0).tolist()
        tokens = int(lengths[inside].sum())
        ratios = tokens / max(words, 1), tokens / max(chars, 1), size_bytes / max(tokens, 1)
        lines.append(Fertility(language, documents, size_bytes, tokens, *(round(each, 4) for each in ratios)))
    return sorted(lines, key=lambda line: (-line.size_bytes, line.language))


@lru_cache(maxsize=2)
def _loaded(path: str, _: int) -> Tokenizer:
    return Tokenizer.load(Path(path))


def _cut(batches: Iterable[pa.Array]) -> Iterator[list[str]]:
    """Lists of texts of about `BATCH_BYTES`, so that a worker holds little whatever the batches are."""
    for batch in batches:
        count = max(1, len(batch) * BATCH_BYTES // max(1, batch.nbytes))
        for begin in range(0, len(batch), count):
            yield [text or "" for text in batch.slice(begin, count).to_pylist()]


def _until(batches: Iterable[pa.Array], size_bytes: int) -> Iterator[list[str]]:
    """Texts until they have this many bytes; the last one may pass it."""
    left = size_bytes
    for texts in _cut(batches):
        taken = []
        for text in texts:
            if left <= 0:
                break
            taken.append(text)
            left -= len(text.encode())
        yield taken
        if left <= 0:
            return
