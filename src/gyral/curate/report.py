"""What a dataset of documents tells of itself: languages, domains, how much was cut; numbers for the manifest and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.curate.decide import Decisions, read
from gyral.curate.edits import lost_bytes
from gyral.lake.dataset import Rule
from gyral.lake.documents import ShardFiles

TOP = 100
"""Groups that are told one by one; the rest is told together."""


def of(shards: Sequence[ShardFiles], decisions: Decisions, table: pa.Table) -> dict[str, Any]:
    """The report: documents and bytes, by language, by domain, and what the edits took.

    Parameters
    ----------
    table : the edits.
    """
    rows = []
    at = 0
    for shard in shards:
        signals = read(shard.signals, ["language", "declared", "domain", "num_bytes"])
        columns: dict[str, Any] = {"rule": pa.array(decisions.rule[at : at + shard.rows])}
        for name in ("language", "declared", "domain"):
            there = name in signals.schema.names
            columns[name] = signals[name].combine_chunks().cast(pa.string()) if there else pa.nulls(shard.rows, pa.string())
        there = "num_bytes" in signals.schema.names
        columns["bytes"] = signals["num_bytes"].combine_chunks().cast(pa.int64()) if there else pa.nulls(shard.rows, pa.int64())
        rows.append(pa.table(columns))
        at += shard.rows
    every = pa.concat_tables(rows)
    lost = pa.chunked_array([pa.array(lost_bytes(table, every.num_rows))])
    is_kept = pc.equal(every["rule"], 0)
    every = every.append_column("kept_bytes", pc.if_else(is_kept, pc.subtract(every["bytes"], lost), 0))
    return {
        "bytes": pc.sum(every["bytes"]).as_py() or 0,
        "bytes_kept": pc.sum(every["kept_bytes"]).as_py() or 0,
        "edits": _edits(table),
        "languages": _groups(every, "language", decisions.rules),
        "domains": _groups(every, "domain", decisions.rules),
        "declared": _declared(every),
    }


def _groups(every: pa.Table, name: str, rules: Sequence[Rule]) -> dict[str, dict[str, Any]]:
    """For each group: documents, kept, bytes, and what was dropped by reason."""
    grouped = every.select([name, "rule", "bytes", "kept_bytes"]).group_by([name, "rule"], use_threads=False)
    counts = grouped.aggregate([("bytes", "sum"), ("kept_bytes", "sum"), ("rule", "count")])
    result: dict[str, dict[str, Any]] = {}
    for row in counts.sort_by([("rule_count", "descending"), (name, "ascending"), ("rule", "ascending")]).to_pylist():
        group = result.setdefault(row[name] or "", {"documents": 0, "kept": 0, "bytes": 0, "bytes_kept": 0, "dropped": {}})
        group["documents"] += row["rule_count"]
        group["bytes"] += row["bytes_sum"] or 0
        if row["rule"] == 0:
            group["kept"] += row["rule_count"]
            group["bytes_kept"] += row["kept_bytes_sum"] or 0
        else:
            reason = rules[row["rule"]].reason
            group["dropped"][reason] = group["dropped"].get(reason, 0) + row["rule_count"]
    ordered = dict(sorted(result.items(), key=lambda item: (-item[1]["documents"], item[0])))
    return dict(list(ordered.items())[:TOP])


def _declared(every: pa.Table) -> dict[str, dict[str, int]]:
    """Declared language → what it was found to be, where both are known."""
    both = every.filter(pc.and_(pc.is_valid(every["declared"]), pc.is_valid(every["language"])))
    counts = both.group_by(["declared", "language"], use_threads=False).aggregate([("rule", "count")])
    result: dict[str, dict[str, int]] = {}
    for row in counts.sort_by([("declared", "ascending"), ("rule_count", "descending"), ("language", "ascending")]).to_pylist():
        result.setdefault(row["declared"], {})[row["language"]] = row["rule_count"]
    return result


def _edits(table: pa.Table) -> dict[str, dict[str, int]]:
    result = {}
    names = np.asarray(table["rule"].to_pylist(), dtype=object)
    sizes = pc.subtract(table["end"], table["begin"]).to_numpy()
    rows = table["row"].to_numpy()
    for name in sorted(set(names)):
        mine = names == name
        result[str(name)] = {
            "ranges": int(mine.sum()),
            "documents": len(np.unique(rows[mine])),
            "bytes": int(sizes[mine].sum()),
        }
    return result
