"""A few documents of each kind of decision, so that a person sees what a rule does: kept ones, dropped ones, clusters.

Which ones depends on their content alone (the smallest digests), and they are kept beside the decisions, so a page shows them
at once: 0.3 s for sixty documents, of each of which one row group is read.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from gyral.curate.decide import Decisions, read
from gyral.lake.documents import ShardFiles, row_at

NUM_KEPT = 6
NUM_A_RULE = 2
NUM_CLUSTERS = 8
NUM_MEMBERS = 4
MAX_CHARS = 2_000
MAX_PICTURE_BYTES = 12_000
PICTURE_SIDE = 192
MAX_PIXELS = 16_000_000
MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg"}


class Sampler:
    """Shows documents by their row."""

    def __init__(self, shards: Sequence[ShardFiles], decisions: Decisions) -> None:
        self._shards = shards
        self._decisions = decisions
        self._ends = np.cumsum([shard.rows for shard in shards])

    def show(self, row: int) -> dict[str, Any]:
        """A document: its place, what was decided, the beginning of its text."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        shard = self._shards[number]
        at = row - int(self._ends[number]) + shard.rows
        place = read(shard.signals, ["file", "offset", "language"]).slice(at, 1).to_pylist()[0]
        content = row_at(shard.text, at)
        offset = place.get("offset", -1)
        told = {
            "document": place["file"] if offset < 0 else f"{place['file']}@{offset}",
            "language": place.get("language"),
            "text": (content["text"] or "")[:MAX_CHARS],
        }
        if content.get("raw"):
            told["picture"] = small_picture(content["raw"])
        value = float(self._decisions.value[row])
        return told if np.isnan(value) else told | {"value": value}


def take(shards: Sequence[ShardFiles], decisions: Decisions, digests: np.ndarray) -> dict[str, Any]:
    """Choose and read the samples of a dataset, as `samples.json` holds them."""
    sampler = Sampler(shards, decisions)
    rank = digests[:, 0]
    dropped: list[dict[str, Any]] = []
    for number, rule in enumerate(decisions.rules):
        rows = np.flatnonzero(decisions.rule == number)
        chosen = _smallest(rows, rank, NUM_A_RULE if number else NUM_KEPT)
        if number and len(chosen):
            documents = [sampler.show(row) for row in chosen]
            about = {"reason": rule.reason, "rule": rule.rule, "threshold": rule.threshold}
            dropped.append({**about, "count": len(rows), "documents": documents})
    kept = [sampler.show(row) for row in _smallest(np.flatnonzero(decisions.is_kept), rank, NUM_KEPT)]
    return {"kept": kept, "dropped": dropped, "clusters": _clusters(decisions, sampler)}


def _clusters(decisions: Decisions, sampler: Sampler) -> list[dict[str, Any]]:
    """The largest clusters of near-duplicates, and those whose members are least alike."""
    near = np.flatnonzero((decisions.twin >= 0) & (decisions.jaccard < 1))
    if not len(near):
        return []
    centers, counts = np.unique(decisions.twin[near], return_counts=True)
    lowest = np.full(len(centers), 2.0)
    place = np.searchsorted(centers, decisions.twin[near])
    np.minimum.at(lowest, place, decisions.jaccard[near])
    largest = np.lexsort((centers, -counts))[: NUM_CLUSTERS // 2]
    farthest = np.lexsort((centers, lowest))[:NUM_CLUSTERS]
    chosen = list(dict.fromkeys([*largest.tolist(), *farthest.tolist()]))[:NUM_CLUSTERS]
    shown = []
    for each in chosen:
        members = near[place == each]
        members = members[np.lexsort((members, decisions.jaccard[members]))][:NUM_MEMBERS]
        told = [{**sampler.show(int(row)), "jaccard": round(float(decisions.jaccard[row]), 4)} for row in members]
        shown.append({"kept": sampler.show(int(centers[each])), "size": int(counts[each]) + 1, "members": told})
    return shown


def _smallest(rows: np.ndarray, rank: np.ndarray, count: int) -> list[int]:
    chosen: list[int] = rows[np.argsort(rank[rows], kind="stable")[:count]].tolist()
    return chosen


def small_picture(raw: bytes) -> str:
    """A picture as an address that holds it, no wider than 192 pixels; empty where it cannot be read."""
    mime = next((mime for magic, mime in MAGIC.items() if raw.startswith(magic)), "")
    if not mime or len(raw) > MAX_PICTURE_BYTES:
        raw, mime = _reduced(raw), "image/jpeg"
    return f"data:{mime};base64,{base64.b64encode(raw).decode()}" if raw else ""


def _reduced(raw: bytes) -> bytes:
    """The picture as a small JPEG; nothing where it cannot be decoded."""
    import cv2

    from gyral.curate.images.headers import Unusable, read_header
    from gyral.curate.images.pixels import decode

    try:
        header = read_header(raw)
        picture = decode(raw, header, PICTURE_SIDE) if header.width * header.height <= MAX_PIXELS else None
    except Unusable:
        return b""
    if picture is None:
        return b""
    scale = min(PICTURE_SIDE / max(picture.shape[:2]), 1.0)
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", small)[1])
