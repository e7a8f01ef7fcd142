"""How many servers hold an embedding table, and how fresh what they give is: rows, hot rows, bytes a second, staleness.

Ids are met by Zipf's law: the i-th most frequent one i^−a as often as the first. So a small part of the rows answers most reads
(`hot_rows`), and a batch meets fewer distinct rows than ids (`distinct`). Each goes over the wire once a batch, and rows are
spread by their hash, so the busiest server has little more than its part. Sums over ranks are exact for the first 4,096 and
over bins of logs behind; against whole sums over a million rows shares differ by less than 1e-6.

Source: Li et al. 2014 (parameter server); Breslau et al. 1999 for Zipf's law of requests.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np

from gyral.errors import ConfigError
from gyral.plan.axes import ROWWISE_ADAGRAD, Kept, rows_bytes
from gyral.plan.counters import Table
from gyral.plan.figure import By, Figure

EXACT, BINS = 4_096, 4_096


class Ranks(NamedTuple):
    """Ranks of ids, some together: how many there are in each bin, and how often one of them is met."""

    num: np.ndarray
    share: np.ndarray


class Servers(NamedTuple):
    """What a table asks of the servers that hold it.

    Attributes
    ----------
    shards : servers, for memory or for bytes a second, whichever asks for more.
    hot : rows whose copies answer `cached` of all reads.
    distinct : rows of a batch, each once.
    traffic : bytes/s of all servers: rows out, gradients in.
    busiest : the busiest server's part of it, where rows are spread by their hash.
    stale : updates that others make while one is on its way.
    """

    shards: int
    held: Figure
    hot: Figure
    distinct: Figure
    traffic: Figure
    busiest: Figure
    stale: Figure


def ranks_of(rows: int, exponent: float) -> Ranks:
    """Of a table's ids, by frequency."""
    if rows < 1 or exponent < 0:
        raise ConfigError("a table has rows, and an exponent of zero or more", hint="1.0 is usual for items and words")
    first = np.arange(1, min(rows, EXACT) + 1, dtype=float)
    num, weight = np.ones_like(first), first**-exponent
    if rows > EXACT:
        edges = np.unique(np.geomspace(EXACT, rows, BINS).round()) + 0.5
        widths = np.diff(edges)
        if abs(exponent - 1) < 1e-6:
            sums = np.log(edges[1:] / edges[:-1])
        else:
            sums = (edges[1:] ** (1 - exponent) - edges[:-1] ** (1 - exponent)) / (1 - exponent)
        num, weight = np.concatenate([num, widths]), np.concatenate([weight, sums / widths])
    return Ranks(num, weight / (num * weight).sum())


def share_of(ranks: Ranks, hot: float) -> float:
    """Share of reads that the `hot` most frequent rows answer."""
    return float(np.interp(hot, np.cumsum(ranks.num), np.cumsum(ranks.num * ranks.share)))


def hot_rows(ranks: Ranks, share: float) -> int:
    """Rows that answer a share of reads."""
    found = np.interp(share, np.cumsum(ranks.num * ranks.share), np.cumsum(ranks.num), left=1.0)
    return ceil(float(found) - 1e-9)


def distinct(ranks: Ranks, reads: float) -> float:
    """Rows that so many reads meet, each counted once, on average."""
    with np.errstate(divide="ignore"):  # a table of one row
        return float((ranks.num * -np.expm1(reads * np.log1p(-ranks.share))).sum())


def servers(
    table: Table,
    exponent: float,
    examples_per_s: float,
    batch: int,
    memory_bytes: float,
    bytes_per_s: float,
    delay_s: float,
    cached: float = 0.5,
    kept: Kept = ROWWISE_ADAGRAD,
    by: By = "assumed",
) -> Servers:
    """Size the servers of one table.

    Parameters
    ----------
    exponent : of Zipf's law.
    examples_per_s, batch : of all trainers together, and of one update.
    memory_bytes, bytes_per_s : that one server has.
    delay_s : from the read of a row to the arrival of its gradient.
    cached : share of reads that hot rows are to answer.
    by : where exponent and traffic are from.

    Raises
    ------
    ConfigError : a size is not above zero.
    """
    if min(examples_per_s, batch, memory_bytes, bytes_per_s, table.reads) <= 0 or not 0 < cached <= 1:
        raise ConfigError("sizes and rates of a table are above zero", hint="and `cached` is a share of reads")
    ranks = ranks_of(table.rows, exponent)
    held = rows_bytes(table.rows, table.width, kept)
    met = distinct(ranks, batch * table.reads)
    updates = examples_per_s / batch
    traffic = updates * met * (2 * table.width * 4 + 2 * 8)  # a row out and its gradient back, each with its id
    shards = max(ceil(held / memory_bytes), ceil(traffic / bytes_per_s), 1)
    first = -np.expm1(batch * table.reads * np.log1p(-ranks.share[0])) if table.rows > 1 else 1.0  # of batches
    even = 1 / shards
    busiest = traffic * min(even + 3 * float(np.sqrt(even * (1 - even) / met)), 1.0)  # distinct rows lie by chance
    why = f"Zipf {exponent:g} over {table.rows:,} rows"
    return Servers(
        shards=shards,
        held=Figure(held, "bytes", "counted", "rows and what the optimizer keeps of them"),
        hot=Figure(hot_rows(ranks, cached), "", by, f"{why}: {cached:.0%} of reads"),
        distinct=Figure(met, "", by, f"{why}: the first is in {first:.0%} of batches"),
        traffic=Figure(traffic, "bytes/s", by, "distinct rows out, gradients in"),
        busiest=Figure(busiest, "bytes/s", by, "three standard deviations over an even part"),
        stale=Figure(updates * delay_s, "", by, "updates a second by the delay"),
    )
