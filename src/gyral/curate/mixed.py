"""Kept documents → how often each is read, and, where that is wanted, the tokens of all of them in that order.

Tokens are written beside the signals under a digest of everything they depend on, so that a run that is killed goes on after
its last whole shard, and the dataset gets its own links to them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.config.curation import Mix
from gyral.curate import tokens
from gyral.curate.decide import read
from gyral.curate.edits import lost_bytes
from gyral.curate.mix import Mixture, Sampler, mix
from gyral.curate.near_texts import signal
from gyral.curate.packing import write_shards
from gyral.curate.settle import Settled
from gyral.curate.store import FOLDER, link
from gyral.engine.base import connect
from gyral.lake.documents import ShardFiles, content, edits_of
from gyral.model.tokenizer import Tokenizer
from gyral.run import Run

TOKENS = "tokens"
FERTILITY_DOCUMENTS = 2_000


class Kept(NamedTuple):
    """The kept documents: their rows, int64 [n], their bytes after the edits, and the mixture of them."""

    rows: np.ndarray
    size_bytes: np.ndarray
    mixture: Mixture


def is_wanted(config: Config, rejected: Mapping[str, int]) -> bool:
    """Whether somebody set a mixture, wants tokens, which come in its order, or rejected answers."""
    return config.tokens.write or config.mix != Mix() or bool(rejected)


def mixed(shards: Sequence[ShardFiles], settled: Settled, config: Config, rejected: Mapping[str, int]) -> Kept:
    """Decide how often each kept document is read in one pass.

    Parameters
    ----------
    rejected : document → how many answers about it people rejected.

    Raises
    ------
    ConfigError : the caps cannot hold.
    """
    rows = np.flatnonzero(settled.decisions.is_kept)
    sizes = (signal(shards, "num_bytes") - lost_bytes(settled.edits, len(settled.decisions.rule)))[rows]
    codes, names = zip(*(_coded(shards, name, rows) for name in ("language", "domain")), strict=True)
    mixture = mix(codes[0], codes[1], sizes, (names[0], names[1]), config.mix)
    if rejected and config.mix.rejected_copies:
        code, files = _coded(shards, "file", rows)
        more = np.array([min(rejected.get(file, 0), config.mix.rejected_copies) for file in files], np.int64)[code]
        copies = np.minimum(mixture.copies + more, np.iinfo(np.uint8).max).astype(np.uint8)
        mixture = mixture._replace(copies=copies)
    return Kept(rows, sizes, mixture)


def write_tokens(
    root: Path, shards: Sequence[ShardFiles], settled: Settled, kept: Kept, config: Config, run: Run
) -> tuple[Path, dict[str, Any]]:
    """Train a tokenizer, or take the one that is named, and write the tokens; returns their folder and what the report says."""
    by = config.tokens
    edits = edits_of(settled.edits)
    parts = [batch.column("text") for _, batch in content(shards, settled.decisions.is_kept, edits)]
    texts = pa.chunked_array(parts, pa.string()).cast(pa.large_string()).combine_chunks()
    sampler = Sampler(kept.mixture.copies, config.mix.seed)
    source = hashlib.sha256(settled.digests[kept.rows].tobytes() + kept.mixture.copies.tobytes())
    source.update(msgspec.json.encode([config.mix, by, settled.edits["replacement"].to_pylist()]))
    for name in ("row", "begin", "end"):
        source.update(settled.edits[name].to_numpy().tobytes())
    folder = root / FOLDER / TOKENS / source.hexdigest()[:32]
    path = Path(by.tokenizer) if by.tokenizer else folder / "trained" / "tokenizer.json"
    if not by.tokenizer and not path.exists():
        run.note(f"curate   training a tokenizer of {by.vocab_size:,} tokens")
        path = tokens.train(tokens.drawn(texts, sampler)(0), by).save(path.parent)
    tokenizer = Tokenizer.load(path)
    meter = run.meter("documents", len(sampler))
    engine = connect(config.on)
    try:

        def encoded(first: int) -> Any:
            done = first
            for each in tokens.encoded(engine, path, tokens.drawn(texts, sampler)(first)):
                yield each
                done += len(each.lengths)
                meter.update(done)

        manifest = write_shards(folder, encoded, tokenizer, by, source.hexdigest())
    finally:
        engine.close()
    few = kept.rows[:: max(1, len(kept.rows) // FERTILITY_DOCUMENTS)]
    sample = texts.take(pa.array(np.searchsorted(kept.rows, few)))
    code, names = _coded(shards, "language", few)
    fertility = tokens.fertility(tokenizer, [text or "" for text in sample.to_pylist()], [names[each] for each in code])
    told = {
        "vocab_size": manifest.vocab_size, "tokens": manifest.tokens, "documents": manifest.documents,
        "padding": manifest.padding, "packing": manifest.packing, "fertility": msgspec.to_builtins(fertility),
    }  # fmt: skip
    return folder, told


def place(folder: Path, target: Path) -> None:
    """Give a dataset its own links to tokens."""
    (target / TOKENS).mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            link(path, target / TOKENS / path.name)


def copies_of(kept: Kept, num_documents: int) -> pa.Array:
    """Copies of each document of a dataset, 0 where it is not kept."""
    copies = np.zeros(num_documents, np.uint8)
    copies[kept.rows] = kept.mixture.copies
    return pa.array(copies)


def _coded(shards: Sequence[ShardFiles], name: str, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """A text signal of rows as codes int64 [n] and names; "" where it is null."""
    parts = []
    for shard in shards:
        table = read(shard.signals, [name])
        there = name in table.schema.names
        parts.append(table[name].combine_chunks().cast(pa.string()) if there else pa.nulls(shard.rows, pa.string()))
    values = pa.concat_arrays(parts).take(pa.array(rows)).fill_null("").dictionary_encode()
    names = values.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return rank[values.indices.to_numpy()], [names[each] for each in order]
