"""Near-duplicates among the documents of a dataset: stored band keys → verified pairs → decisions.

Pairs are looked for among all distinct texts, kept or not, so they stay the same whatever a threshold says, and are stored: to
decide anew is to walk over them once. A document is dropped for one that is kept, with the Jaccard that was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gyral.config import Config
from gyral.curate.decide import Decisions, read
from gyral.curate.near.minhash import MinHash, keys_of
from gyral.curate.near.pairs import Nodes, Pairs, Settings, find_pairs
from gyral.curate.near.star import star
from gyral.curate.pipeline import told_of_kernels
from gyral.curate.store import FOLDER, parquet
from gyral.files import make_folder, write_atomic
from gyral.lake.dataset import Rule
from gyral.lake.documents import ShardFiles
from gyral.run import Run


class Texts(NamedTuple):
    """Distinct texts, numbered by the first document that has each.

    Attributes
    ----------
    node_of : the text of each document, int64 [n], -1 where it has none.
    first : the first document of each text, int64 [m], ascending.
    """

    node_of: np.ndarray
    first: np.ndarray


def drop(
    root: Path, shards: Sequence[ShardFiles], decisions: Decisions, digests: np.ndarray, config: Config, run: Run
) -> dict[str, Any]:
    """Drop near-duplicates of kept documents; returns what the report says of it."""
    texts = distinct(digests)
    pairs = _pairs(root, shards, digests, texts, config, run)
    sizes = signal(shards, "num_bytes")[texts.first]
    kept = np.flatnonzero(decisions.is_kept)
    kept = kept[texts.node_of[kept] >= 0]
    stands = np.full(len(texts.first), -1, np.int64)
    stands[texts.node_of[kept][::-1]] = kept[::-1]  # of several with one text, the first
    order = np.lexsort((digests[texts.first, 1], digests[texts.first, 0], -sizes))
    twin, jaccard = star(len(texts.first), pairs, order, stands >= 0, config.dedup.jaccard)
    nodes = texts.node_of[kept]
    rows = kept[twin[nodes] >= 0]
    nodes = texts.node_of[rows]
    rule = Rule("duplicate_near", "dedup.jaccard", config.dedup.jaccard, "bands")
    decisions.repeat(rows, rule, stands[twin[nodes]], jaccard[nodes])
    stable = ("candidates", "below_floor", "capped_buckets")  # what was known before is no fact of the dataset
    return {"texts": len(texts.first), "pairs": len(pairs.a), **{name: pairs.counts[name] for name in stable}}


def distinct(digests: np.ndarray) -> Texts:
    """Number the distinct texts by the document that comes first."""
    there = np.flatnonzero(digests.any(axis=1))
    order = np.lexsort((there, digests[there, 1], digests[there, 0]))
    sorted_ = digests[there][order]
    starts = np.r_[True, (sorted_[1:] != sorted_[:-1]).any(axis=1)] if len(order) else np.zeros(0, bool)
    firsts = there[order][starts]
    rank = np.empty(len(firsts), np.int64)
    rank[np.argsort(firsts)] = np.arange(len(firsts))
    node_of = np.full(len(digests), -1, np.int64)
    node_of[there[order]] = rank[np.cumsum(starts) - 1]
    return Texts(node_of, np.sort(firsts))


def _pairs(root: Path, shards: Sequence[ShardFiles], digests: np.ndarray, texts: Texts, config: Config, run: Run) -> Pairs:
    """The verified pairs of these texts: those of an earlier run, or found now."""
    how = Settings.of(config.dedup)
    key = hashlib.sha256(
        repr((how.digest, how.bucket, config.dedup.bands, config.dedup.rows)).encode() + digests[texts.first].tobytes()
    ).hexdigest()[:32]
    path = root / FOLDER / "pairs" / f"{key}.parquet"
    if path.exists():
        table = pq.read_table(path)
        told = msgspec.json.decode(table.schema.metadata[b"told"])
        return Pairs(table["a"].to_numpy(), table["b"].to_numpy(), table["jaccard"].to_numpy(), told)
    folder = root / FOLDER / "verified"
    make_folder(folder)
    with told_of_kernels(run.note), TemporaryDirectory() as scratch:
        find_pairs(*_sample(config), how, Path(scratch))
    found = find_pairs(_nodes(shards, digests, texts), _reader(shards, texts), how, folder, run.meter("texts"))
    run.metric("near", **found.counts)
    table = pa.table({"a": found.a, "b": found.b, "jaccard": found.jaccard})
    write_atomic(path, parquet(table.replace_schema_metadata({b"told": msgspec.json.encode(found.counts)})))
    return found


def _sample(config: Config) -> tuple[list[Nodes], Callable[[np.ndarray], Iterator[pa.StringArray]]]:
    """Two texts that are near to each other, so that every kernel is met before the clock runs."""
    texts = pa.array([f"{'These are words of a text that is here twice. ' * 3}{number}" for number in range(2)])
    keys, counts = MinHash.of(config.dedup).sign(texts)
    digests = np.arange(1, 5, dtype=np.uint64).reshape(2, 2)
    nodes = Nodes(digests, keys, counts, np.full(2, 140, np.int64))
    return [nodes], lambda rows: iter([texts.take(pa.array(rows))])


def _nodes(shards: Sequence[ShardFiles], digests: np.ndarray, texts: Texts) -> Iterator[Nodes]:
    at = 0
    for shard in shards:
        low, high = np.searchsorted(texts.first, [at, at + shard.rows])
        mine = texts.first[low:high] - at
        table = read(shard.signals, ["bands", "num_shingles", "num_bytes"]).take(pa.array(mine))
        keys = keys_of(table["bands"].combine_chunks())
        counts, sizes = (table[name].to_numpy() for name in ("num_shingles", "num_bytes"))
        yield Nodes(digests[mine + at], keys, counts.astype(np.int32), sizes.astype(np.int64))
        at += shard.rows


def _reader(shards: Sequence[ShardFiles], texts: Texts) -> Callable[[np.ndarray], Iterator[pa.StringArray]]:
    def read_texts(nodes: np.ndarray) -> Iterator[pa.StringArray]:
        rows = texts.first[nodes]
        at = 0
        for shard in shards:
            low, high = np.searchsorted(rows, [at, at + shard.rows])
            if high > low:
                table = pq.read_table(shard.text, columns=["text"])
                yield table["text"].take(pa.array(rows[low:high] - at)).combine_chunks()
            at += shard.rows

    return read_texts


def signal(shards: Sequence[ShardFiles], name: str) -> np.ndarray:
    """A signal of all documents that is a whole number for each, int64 [n]."""
    parts = [np.zeros(0, np.int64)]
    for shard in shards:
        table = read(shard.signals, [name])
        there = name in table.schema.names
        parts.append(pc.fill_null(table[name], 0).to_numpy().astype(np.int64) if there else np.zeros(shard.rows, np.int64))
    return np.concatenate(parts)
