"""Rows outside a table: what is written, moved and followed. Arrays, so that they travel without being looked at.

`Records` are whole rows; `Changes` is what happened in some buckets since they were last asked: rows as they are now, and keys
that are gone. Rows of a bucket come in no order; a key occurs once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.params.spec import TableSpec


class Records(NamedTuple):
    """Rows of one table.

    Attributes
    ----------
    keys : int64 [K].
    stamps : uint32 [K], event time of the last push, seconds since the epoch (0: none was said).
    bodies : uint8 [K, `spec.body_bytes`]: state (float32), then weights as they rest.
    """

    keys: np.ndarray
    stamps: np.ndarray
    bodies: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


class Changes(NamedTuple):
    """What changed in N buckets, in their order.

    Attributes
    ----------
    buckets : uint16 [N], ascending; only those in which anything changed.
    upserts : rows that are new or were pushed, bucket after bucket.
    upsert_starts : int64 [N + 1], where each bucket's begin.
    gone_keys : int64, rows that were removed, bucket after bucket.
    gone_starts : int64 [N + 1].
    counters : what admission counted, uint8 [N, bytes a bucket]; no bytes where everything is admitted.
    """

    buckets: np.ndarray
    upserts: Records
    upsert_starts: np.ndarray
    gone_keys: np.ndarray
    gone_starts: np.ndarray
    counters: np.ndarray


def weights_of(spec: TableSpec, bodies_KB: np.ndarray) -> np.ndarray:
    """Weights of rows, float32 [K, D], whatever they rest as; a view where that is float32."""
    at = 4 * spec.optimizer.state_words(spec.dim)
    held = bodies_KB[:, at : at + spec.weight_bytes]
    if spec.dtype == "f32":
        return held.view(np.float32)
    if spec.dtype == "bf16":
        return (np.ascontiguousarray(held).view(np.uint16)[:, : spec.dim].astype(np.uint32) << 16).view(np.float32)
    scales = np.ascontiguousarray(held[:, :4]).view(np.float32)
    return np.asarray(held[:, 4 : 4 + spec.dim].view(np.int8).astype(np.float32) * scales)
