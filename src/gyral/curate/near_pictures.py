"""Decisions about pictures that need all of them: captions that stand on too many, and pictures that look alike.

A picture with several captions is one picture: its rows stay together. Of two that look alike the larger stays, and all rows of
the other go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.curate.decide import Decisions, read, rule_of
from gyral.curate.images.captions import common as common_limit
from gyral.curate.images.captions import count_pictures
from gyral.curate.images.near_images import best_first, find_pairs, pictures
from gyral.curate.near.pairs import Pairs
from gyral.curate.near.star import star
from gyral.lake.dataset import Rule
from gyral.lake.documents import ShardFiles

COLUMNS = ("image_digest", "image_hash", "thumbnail", "width", "height", "image_bytes")


def drop(
    shards: Sequence[ShardFiles], decisions: Decisions, config: Config, *, near: bool, common: bool = True
) -> dict[str, Any]:
    """Drop rows with common captions, then those whose picture looks like one that is kept; returns what the report says.

    Parameters
    ----------
    near, common : whether pictures that look alike are looked for, and captions that are common.
    """
    table = pa.concat_tables([_signals(shard) for shard in shards])
    if common:
        _drop_common(table, decisions, config)
    kept = np.flatnonzero(decisions.is_kept & table["image_digest"].combine_chunks().is_valid().to_numpy(False))
    if not near or not len(kept):
        return {}
    table = table.take(pa.array(kept))
    firsts, picture = pictures(table["image_digest"].combine_chunks())
    one = table.take(pa.array(firsts))
    width, height, size = (one[name].to_numpy() for name in ("width", "height", "image_bytes"))
    best = best_first(width, height, size, one["image_digest"].combine_chunks())
    thumbnails = np.frombuffer(b"".join(one["thumbnail"].to_pylist()), np.uint8).reshape(len(one), -1)
    by = config.images
    found = find_pairs(
        one["image_hash"].to_numpy(), thumbnails, best_first=best, max_distance=by.near_bits, min_likeness=by.near_likeness,
        max_colour=by.near_colour,
    )  # fmt: skip
    everyone = np.ones(len(one), bool)
    twin, similarity = star(len(one), Pairs(found.a, found.b, found.similarity), best, everyone, 0.0)
    gone = np.flatnonzero(twin[picture] >= 0)
    rule = Rule("duplicate_near", "images.near_bits", by.near_bits, "image_hash")
    near_by = similarity[picture[gone]]
    bits = np.round(64 * (1 - near_by)).astype(np.float64)
    decisions.repeat(kept[gone], rule, kept[firsts[twin[picture[gone]]]], near_by, bits)
    return {"pictures": len(one), "pairs": len(found.a), "skipped": found.skipped}


def _signals(shard: ShardFiles) -> pa.Table:
    table = read(shard.signals, [*COLUMNS, "caption_hash"])
    if "caption_hash" in table.schema.names:
        return table
    return table.append_column("caption_hash", pa.nulls(shard.rows, pa.uint64()))


def _drop_common(table: pa.Table, decisions: Decisions, config: Config) -> None:
    valid = table["caption_hash"].combine_chunks().is_valid().to_numpy(False)
    rows = np.flatnonzero(decisions.is_kept & valid & table["image_digest"].combine_chunks().is_valid().to_numpy(False))
    if not len(rows):
        return
    chosen = table.take(pa.array(rows))
    _, picture = pictures(chosen["image_digest"].combine_chunks())
    counts = count_pictures(chosen["caption_hash"].to_numpy(), picture)
    limit = common_limit(config)
    over = counts > limit.threshold
    decisions.drop(rows[over], rule_of(limit), counts[over])
