"""A result of `gyral bench serve` as a person reads it: a figure a line, units always, what is not known as a dash."""

from __future__ import annotations

from typing import Any

import msgspec

from gyral.bench import points
from gyral.bench.points import OperatingPoint, Spread


def milliseconds(value: float | None) -> str:
    """Write milliseconds; a dash where there are none."""
    return "–" if value is None else f"{value:,.3g} ms" if value < 1_000 else f"{value:,.0f} ms"


def table_of(told: dict[str, Any]) -> str:
    """What a person reads of a result."""
    point = msgspec.convert({name: told[name] for name in OperatingPoint.__struct_fields__}, OperatingPoint)
    rows = [f"{told['url']}, {told['route']}, {told['arrivals']}"]
    if "knee_per_s" in told:
        knee = told["knee_per_s"]
        limit = "" if told["limited_by"] == "server" else f"; the {told['limited_by']} ended the ramp, not the server"
        rows.append(f"knee          {f'{knee:,.0f}/s is held' if knee else 'no rate was held, not the lowest either'}{limit}")
    rows.append(f"offered       {point.offered_per_s:,.1f}/s, {point.num_requests:,} requests in {point.seconds:,.1f} s")
    rows.append(f"answered      {point.achieved_per_s:,.1f}/s; in time {point.good_per_s:,.1f}/s, goodput {point.goodput:.4f}")
    rows.append(f"latency       {_spoken(point.latency)}")
    rows += [f"              {line}" for line in _scarce(point.latency)]
    rows.append(f"since sent    {_spoken(point.since_sent)}")
    if point.first_token is not None and point.between_tokens is not None:
        rows.append(f"first token   {_spoken(point.first_token)}")
        rows.append(f"next tokens   {_spoken(point.between_tokens)}; {point.tokens_per_s or 0:,.1f} tokens/s")
    failed = ", ".join(f"{name} {number:,}" for name, number in point.errors.items())
    rows.append(f"errors        {failed or 'none'}")
    if point.cpu_s_per_request is not None:
        price = f", {point.usd_per_1000:.6f} USD for 1,000" if point.usd_per_1000 is not None else ""
        rows.append(f"server CPU    {1e6 * point.cpu_s_per_request:,.0f} µs a request ({point.cpu_source}){price}")
    rows.append(
        f"generator     {point.generator_cpu_us:.0f} µs a request, {point.most_open:,} connections; late p99 "
        f"{milliseconds(point.lateness.p99_ms)}, {100 * point.late_share:.2f} % too late; load {point.load:.1f}"
    )
    if not point.is_valid:
        rows.append(f"NOT VALID     {point.why}; a lower `--rate`, or a machine with a core to spare")
    return "\n".join(rows)


def _spoken(spread: Spread) -> str:
    names = {"p50": spread.p50_ms, "p95": spread.p95_ms, "p99": spread.p99_ms, "p99.9": spread.p999_ms, "max": spread.max_ms}
    return ", ".join(f"{name} {milliseconds(value)}" for name, value in names.items())


def _scarce(spread: Spread) -> list[str]:
    """Which percentiles there are too few samples for, and how sure the 99th is."""
    told = []
    if spread.p99_ms is not None and spread.p99_interval_ms is not None:
        low, high = map(milliseconds, spread.p99_interval_ms)
        told.append(f"p99 of {spread.num_samples:,} samples: {low} to {high}")
    missing = [name for name in points.QUANTILES if getattr(spread, name) is None]
    if missing:
        need = points.needed(points.QUANTILES[missing[-1]])
        name = missing[-1].removesuffix("_ms").replace("p999", "p99.9")
        told.append(f"{spread.num_samples:,} samples are too few for {name}, which needs {need:,}")
    return told
