"""Signals → decisions: what is kept, and for every document that is not, the rule, the value and the kept twin.

Everything here works on stored columns, so a threshold is changed without reading a text. In this order: what could not be
read, the limits of the stages, exact duplicates, near-duplicates, and last the paragraphs that an earlier document has. A
document has the first reason that holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gyral.config import Config
from gyral.config.sections import Rule as OwnRule
from gyral.curate.stage import Columns, Limit, Op, Stage
from gyral.errors import ConfigError, InputError
from gyral.lake.dataset import Rule
from gyral.lake.documents import ShardFiles

REJECTED = Limit("rejected", "", ["rejected"], lambda columns: columns["rejected"], "is", None)
"""What a reader or a stage could not use; the reason is what it said."""
COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
EXACT = Rule("duplicate_exact", "dedup.exact", True, "digest")


class Decisions:
    """A decision for each of n documents, in the order of the shards.

    Attributes
    ----------
    rules : what the numbers in `rule` mean; 0 is kept.
    rule : int16 [n].
    value : float64 [n], what was compared, NaN where it is a text or nothing.
    twin : int64 [n], the kept document that it repeats, -1 for none.
    jaccard : float32 [n], with the twin; 1 for exact duplicates, NaN without.
    """

    def __init__(self, num_documents: int) -> None:
        self.rules = [Rule("")]
        self.rule = np.zeros(num_documents, np.int16)
        self.value = np.full(num_documents, np.nan)
        self.twin = np.full(num_documents, -1, np.int64)
        self.jaccard = np.full(num_documents, np.nan, np.float32)

    @property
    def is_kept(self) -> np.ndarray:
        kept: np.ndarray = self.rule == 0
        return kept

    def number_of(self, rule: Rule) -> int:
        """The number that stands for a rule."""
        if rule not in self.rules:
            self.rules.append(rule)
        return self.rules.index(rule)

    def drop(self, rows: np.ndarray, rule: Rule, value: np.ndarray | float = np.nan) -> None:
        """Drop rows that are kept so far."""
        self.rule[rows] = self.number_of(rule)
        self.value[rows] = value

    def repeat(
        self, rows: np.ndarray, rule: Rule, twins: np.ndarray, similarity: np.ndarray | float, value: np.ndarray | None = None
    ) -> None:
        """Drop rows as repetitions of others; the rule compared their similarity, or another value."""
        self.drop(rows, rule, similarity if value is None else value)
        self.twin[rows] = twins
        self.jaccard[rows] = similarity

    def follow(self) -> None:
        """Let twins that were dropped later pass on their own: what is named is kept.

        Behind an exact copy the Jaccard is that of the copy; else that with another twin was never measured, and is not told.
        """
        rows = np.flatnonzero(self.twin >= 0)
        while len(rows):
            rows = rows[(self.twin[self.twin[rows]] >= 0) & ~self.is_kept[self.twin[rows]]]
            middle = self.twin[rows]
            same = self.jaccard[rows] == 1
            self.jaccard[rows] = np.where(same, self.jaccard[middle], np.nan)
            self.twin[rows] = self.twin[middle]

    def dropped(self) -> dict[str, int]:
        """Documents by reason, in the order in which the rules apply."""
        counts = np.bincount(self.rule, minlength=len(self.rules))
        result: dict[str, int] = {}
        for rule, count in list(zip(self.rules, counts.tolist(), strict=True))[1:]:
            if count:
                result[rule.reason] = result.get(rule.reason, 0) + count
        return result

    def table(self) -> pa.Table:
        """As `decisions.parquet` holds them."""
        reasons = pa.array([each.reason for each in self.rules], pa.string())
        return pa.table(
            {
                "reason": reasons.take(pa.array(self.rule)),  # no dictionary: Arrow writes those with bytes it never set
                "rule": pa.array(self.rule),
                "value": pa.array(self.value, mask=np.isnan(self.value)),
                "twin": pa.array(self.twin, mask=self.twin < 0),
                "jaccard": pa.array(self.jaccard, mask=np.isnan(self.jaccard)),
            }
        )


def limits_of(stages: Sequence[Stage], config: Config) -> list[Limit]:
    """All limits, in the order in which they decide: the stages', then the project's own rules on any signal."""
    return [REJECTED, *(limit for stage in stages for limit in stage.limits(config)), *map(own_limit, config.curate.rules)]


def by_limits(shards: Sequence[ShardFiles], limits: Sequence[Limit]) -> Decisions:
    """Decide about every document by itself."""
    decisions = Decisions(sum(shard.rows for shard in shards))
    for limit in limits[1:]:
        decisions.number_of(rule_of(limit))  # funnels show rules in this order
    wanted = list(dict.fromkeys(name for limit in limits for name in limit.columns))
    at = 0
    for shard in shards:
        columns = Signals(read(shard.signals, wanted))
        rows = np.arange(at, at + shard.rows)
        is_open = np.ones(shard.rows, bool)
        for limit in limits:
            hit, value = holds(limit, columns)
            hit &= is_open
            if hit.any():
                is_open &= ~hit
                _drop(decisions, rows[hit], limit, hit, value)
        at += shard.rows
    return decisions


def exact(shards: Sequence[ShardFiles], decisions: Decisions) -> np.ndarray:
    """Drop documents whose text a kept one has that comes before; returns the digests, uint64 [n, 2]."""
    digests = digests_of(shards)
    first = np.full(len(digests), -1, np.int64)
    there = np.flatnonzero(digests.any(axis=1))
    kept = decisions.is_kept[there]
    order = np.lexsort((there, ~kept, digests[there, 1], digests[there, 0]))
    sorted_ = digests[there][order]
    starts = np.r_[True, (sorted_[1:] != sorted_[:-1]).any(axis=1)] if len(order) else np.zeros(0, bool)
    group = np.cumsum(starts) - 1
    first[there[order]] = there[order][starts][group]
    repeated = there[kept & (first[there] != there)]
    decisions.repeat(repeated, EXACT, first[repeated], 1.0)
    return digests


def digests_of(shards: Sequence[ShardFiles]) -> np.ndarray:
    """Digests of the texts, uint64 [n, 2]; zeros where there is none."""
    parts = [np.zeros((0, 2), np.uint64)]
    for shard in shards:
        table = read(shard.signals, ["digest"])
        if "digest" not in table.schema.names:  # a recipe of the user's without the stage: nothing is a copy of anything
            parts.append(np.zeros((shard.rows, 2), np.uint64))
            continue
        column = table["digest"].combine_chunks()
        filled = pc.fill_null(column, pa.scalar(bytes(16), pa.binary(16)))
        parts.append(np.frombuffer(filled.buffers()[1], np.uint64, 2 * len(filled), 16 * filled.offset).reshape(-1, 2))
    return np.concatenate(parts)


class Signals(Mapping[str, pa.Array]):
    """The columns of a shard; what it lacks is null, so a rule on a signal that no stage makes drops nothing."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __getitem__(self, name: str) -> pa.Array:
        if name not in self._table.schema.names:
            return pa.nulls(self._table.num_rows)
        return self._table[name].combine_chunks()

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.schema.names)

    def __len__(self) -> int:
        return len(self._table.schema.names)


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """The columns of a file of signals that are in it."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            return file.read(there or ["file"])
    except (OSError, pa.ArrowInvalid) as error:
        hint = "name the source again: `gyral curate NAME --source PLACE`; where that finds it, too, delete `datasets/.signals`"
        raise InputError(f"signals cannot be read: `{path.name}`", why=str(error), where=str(path.parent), hint=hint) from None


def holds(limit: Limit, columns: Columns) -> tuple[np.ndarray, np.ndarray | pa.Array]:
    """Where a limit drops, and the values it compared."""
    try:
        value = limit.value(columns)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, TypeError) as error:
        if not limit.rule.startswith("curate.rules."):
            raise
        hint = "numbers are compared with numbers, texts with texts; what there is: `gyral show DATASET --why DOCUMENT`"
        raise ConfigError(
            f"`{limit.rule}` cannot look at `{limit.columns[0]}`", why=str(error), where="[[curate.rules]]", hint=hint
        ) from None
    if limit.op not in COMPARE:
        found = pc.is_valid(value)
        if limit.op != "is":
            listed = pc.is_in(value, value_set=pa.array(limit.threshold, pa.string()))
            found = pc.and_(found, listed if limit.op == "in" else pc.invert(listed))
        return found.to_numpy(zero_copy_only=False), value
    numbers = np.asarray(value, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(COMPARE[limit.op](numbers, limit.threshold) & ~np.isnan(numbers)), numbers


def rule_of(limit: Limit) -> Rule:
    """What a decision by this limit points to."""
    threshold = sorted(limit.threshold) if isinstance(limit.threshold, tuple | set | frozenset) else limit.threshold
    return Rule(limit.reason, limit.rule, threshold, limit.columns[0])


def _drop(decisions: Decisions, rows: np.ndarray, limit: Limit, hit: np.ndarray, value: Any) -> None:
    if limit is REJECTED:
        reasons = np.asarray(value.filter(pa.array(hit)).to_pylist(), dtype=object)
        for reason in sorted(set(reasons)):
            decisions.drop(rows[reasons == reason], Rule(reason, signal="rejected"))
        return
    numbers = value[hit] if limit.op in COMPARE else np.nan
    decisions.drop(rows, rule_of(limit), numbers)


def own_limit(rule: OwnRule) -> Limit:
    """A rule of the project (`[[curate.rules]]`) on any signal."""

    def text(columns: Columns) -> pa.Array:
        column = columns[rule.field]
        if rule.op == "is null":
            return pc.if_else(pc.is_null(column), "null", pa.scalar(None, pa.string()))
        is_number = isinstance(rule.value, int | float) and not isinstance(rule.value, bool)
        texts = column.cast(pa.string())
        if rule.op in ("==", "!="):
            found = (
                pc.equal(column.cast(pa.float64()), float(rule.value or 0)) if is_number else pc.equal(texts, str(rule.value))
            )
            return pc.if_else(found if rule.op == "==" else pc.invert(found), texts, pa.scalar(None, pa.string()))
        found = pc.match_substring_regex(texts, str(rule.value))
        return pc.if_else(found if rule.op == "matches" else pc.invert(found), texts, pa.scalar(None, pa.string()))

    def number(columns: Columns) -> np.ndarray:
        return np.asarray(columns[rule.field].cast(pa.float64()).to_numpy(zero_copy_only=False))

    name = f"curate.rules.{rule.reason}"
    if rule.op in COMPARE:
        try:
            threshold = float(rule.value or 0)
        except ValueError:
            hint = 'texts are compared by `op = "=="` or `"matches"`'
            raise ConfigError(f"`{rule.value}` is no number", where=f"[[curate.rules]], {rule.reason}", hint=hint) from None
        return Limit(rule.reason, name, [rule.field], number, cast(Op, rule.op), threshold)
    return Limit(rule.reason, name, [rule.field], text, "is", rule.value)
