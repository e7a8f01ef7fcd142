"""Documents that mean the same by an embedding of the user's, among those that nothing else has dropped.

Vectors are kept by the digest of the text (4 bytes a dimension), so only texts that were not met before are embedded: that is
what costs, and it is the user's model that says how much.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gyral import plugins
from gyral.config import Config
from gyral.curate import semantic
from gyral.curate.decide import Decisions
from gyral.curate.near.pairs import Pairs
from gyral.curate.near.star import star
from gyral.curate.near_texts import signal
from gyral.curate.store import FOLDER, parquet
from gyral.files import write_atomic
from gyral.lake.dataset import Rule
from gyral.lake.documents import ShardFiles, content
from gyral.run import Run

SAMPLE = "A sentence by whose vector a model is known again."


def drop(
    root: Path, shards: Sequence[ShardFiles], decisions: Decisions, digests: np.ndarray, config: Config, run: Run
) -> dict[str, Any]:
    """Drop kept documents whose vector is near to that of a longer one that stays; returns what the report says of it."""
    by = config.dedup
    rows = np.flatnonzero(decisions.is_kept & digests.any(axis=1))
    vectors, embedded = _vectors(root, shards, rows, digests, by.semantic, run)
    sizes = signal(shards, "num_bytes")[rows]
    order = np.lexsort((digests[rows, 1], digests[rows, 0], -sizes))
    twin, cosine = semantic.duplicates(
        vectors, order, np.ones(len(rows), bool), by.semantic_min_cosine, _star, clusters=by.semantic_clusters,
        probes=by.semantic_probes,
    )  # fmt: skip
    gone = np.flatnonzero(twin >= 0)
    rule = Rule("duplicate_semantic", "dedup.semantic_min_cosine", by.semantic_min_cosine, "digest")
    decisions.repeat(rows[gone], rule, rows[twin[gone]], cosine[gone])
    return {"embedded": embedded, "dropped": len(gone)}


def _star(
    number: int, a: np.ndarray, b: np.ndarray, cosine: np.ndarray, order: np.ndarray, alive: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    return star(number, Pairs(a, b, cosine), order, alive, threshold)


def _vectors(
    root: Path, shards: Sequence[ShardFiles], rows: np.ndarray, digests: np.ndarray, function: str, run: Run
) -> tuple[np.ndarray, int]:
    """Vectors of the texts of rows, float32 [n, d], and how many of them had to be made."""
    embed = plugins.load(function, "dedup.semantic")
    told = next(semantic.embed(embed, [pa.array([SAMPLE])]))  # another model, or another version of it, says something else
    model = hashlib.sha256(function.encode() + np.round(told, 3).tobytes()).hexdigest()[:32]
    path = root / FOLDER / "vectors" / f"{model}.parquet"
    names = np.ascontiguousarray(digests[rows]).view("V16")[:, 0]
    known = np.zeros(0, "V16")
    made = np.zeros((0, 0), np.float32)
    if path.exists():
        table = pq.read_table(path)
        known = np.frombuffer(b"".join(table["digest"].to_pylist()), "V16")
        made = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(known), -1)
    missing = rows[~np.isin(names.view("S16"), known.view("S16"))] if len(known) else rows
    if len(missing):
        meter = run.meter("texts", len(missing))
        chosen = np.zeros(len(digests), bool)
        chosen[missing] = True
        found = []
        for vectors in semantic.embed(embed, (batch.column("text") for _, batch in content(shards, chosen, None))):
            found.append(vectors)
            meter.update(sum(map(len, found)))
        fresh = np.concatenate(found)
        made = np.concatenate([made, fresh]) if len(made) else fresh
        known = np.concatenate([known, np.ascontiguousarray(digests[missing]).view("V16")[:, 0]])
        _keep(path, known, made)
    order = np.argsort(known.view("S16"), kind="stable")
    place = order[np.searchsorted(known.view("S16")[order], names.view("S16"))]
    return np.ascontiguousarray(made[place]), len(missing)


def _keep(path: Path, digests: np.ndarray, vectors: np.ndarray) -> None:
    table = pa.table(
        {
            "digest": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), len(digests), [None, pa.py_buffer(digests.tobytes())]
            ),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
    )
    write_atomic(path, parquet(table))
