"""What a text is told from every other by: 128 bits of XXH3, and its size.

Two texts of one digest are taken for the same. By chance that happens among 10^12 texts with probability 10^-15; who wants to
make it happen can, so a corpus whose authors are enemies loses documents to it, never gains any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.curate.stage import Columns, Limit, Stage, add, numbers, utf8


@dataclass(frozen=True)
class Digest(Stage):
    """Adds `digest` (16 bytes, null where there is nothing) and `num_bytes` of the text; of a picture the digest is of its
    bytes and its caption."""

    name: ClassVar[str] = "digest"

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        from xxhash import xxh3_128_digest

        data, offsets = utf8(batch.column("text"))
        view = data.data
        places = offsets.tolist()
        digests = [xxh3_128_digest(view[begin:end]) if end > begin else None for begin, end in pairwise(places)]
        for row in np.flatnonzero(batch.column("media").to_numpy(zero_copy_only=False) == "image").tolist():
            raw, text = batch.column("raw")[row].as_py(), view[places[row] : places[row + 1]]
            digests[row] = xxh3_128_digest(raw + bytes(text)) if raw else None
        sizes = pa.array(np.diff(offsets).astype(np.int32))
        return add(batch, {"digest": pa.array(digests, pa.binary(16)), "num_bytes": sizes})

    def limits(self, config: Config) -> Sequence[Limit]:
        return [Limit("empty", "", ["num_bytes", "media"], _of_text, "<", 1)]


def _of_text(columns: Columns) -> np.ndarray:
    return np.where(columns["media"].to_numpy(zero_copy_only=False) == "image", np.nan, numbers(columns, "num_bytes"))
