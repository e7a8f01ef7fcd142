"""All decisions about some documents, in order; and what they would be without one rule.

From stored signals alone: limits, exact duplicates, near-duplicates, then the cuts of what is kept and its repeated paragraphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.curate import decide, edits, near_pictures, near_texts
from gyral.curate.decide import Decisions
from gyral.curate.stage import Cut, Limit, Stage
from gyral.lake.dataset import Rule
from gyral.lake.documents import ShardFiles
from gyral.run import Run

REPEATED = "duplicate_paragraphs"
_DEDUP = ("exact", "near", "semantic", "paragraphs")
_OFF: dict[str, Any] = {"exact": False, "near": False, "semantic": "", "paragraphs": False}


class Settled(NamedTuple):
    """Decisions, the table of edits, digests of the texts (uint64 [n, 2]), and what the report tells of duplicates."""

    decisions: Decisions
    edits: pa.Table
    digests: np.ndarray
    told: dict[str, Any]


def settle(
    root: Path, shards: Sequence[ShardFiles], stages: Sequence[Stage], config: Config, run: Run, without: str = ""
) -> Settled:
    """Decide about every document.

    Parameters
    ----------
    without : a family of rules that is left out, one of `families`.
    """
    limits = [limit for limit in decide.limits_of(stages, config) if not without or family_of(limit) != without]
    dedup = msgspec.structs.replace(config.dedup, **{each: _OFF[each] for each in _DEDUP if without == f"dedup.{each}"})
    decisions = decide.by_limits(shards, limits)
    digests = decide.exact(shards, decisions) if dedup.exact else decide.digests_of(shards)
    told: dict[str, Any] = {}
    names = {stage.name for stage in stages}
    if "pixels" in names:
        told["near"] = near_pictures.drop(shards, decisions, config, near=dedup.near, common=without != "images")
    if dedup.near and {"minhash", "digest"} <= names:
        told["near"] = near_texts.drop(root, shards, decisions, digests, config, run)
    if dedup.semantic and "digest" in names:
        from gyral.curate import same_meaning

        told["semantic"] = same_meaning.drop(root, shards, decisions, digests, config, run)
    cuts = [cut for stage in stages for cut in stage.cuts(config)]
    ranges = edits.Ranges()
    edits.of_stages(shards, decisions, cuts, ranges)
    if dedup.paragraphs and {"paragraphs", "digest"} <= names:
        rule = Rule(REPEATED, "dedup.max_repeated_share", dedup.max_repeated_share, "paragraphs")
        cuts.append(Cut("paragraphs", "dedup.paragraphs", ""))
        seen, repeated = edits.of_paragraphs(shards, decisions, dedup.max_repeated_share, rule, len(cuts) - 1, ranges)
        told["paragraphs"] = {"seen": seen, "repeated": repeated}
    decisions.follow()
    return Settled(decisions, ranges.table(cuts, decisions.is_kept), digests, told)


def families(stages: Sequence[Stage], config: Config) -> list[str]:
    """The families of rules that decide: `quality.gopher`, `language`, `dedup.near`, …"""
    named = [family for limit in decide.limits_of(stages, config) if (family := family_of(limit)) is not None]
    there = {stage.name for stage in stages}
    needed = {"exact": {"digest"}, "near": {"minhash", "pixels"}, "semantic": {"digest"}, "paragraphs": {"paragraphs"}}
    on = [f"dedup.{each}" for each in _DEDUP if getattr(config.dedup, each) and needed[each] & there]
    return [*dict.fromkeys(named), *on]


def family_of(limit: Limit) -> str | None:
    """The family of a limit by the setting that holds its threshold; None for what no setting can bring back."""
    pieces = limit.rule.split(".")
    return (".".join(pieces[:2]) if pieces[0] in ("quality", "curate") else pieces[0]) or None
