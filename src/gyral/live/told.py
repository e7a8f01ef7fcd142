"""What a person is told at the end of `gyral loop --live`."""

from __future__ import annotations

from typing import Any

from gyral.progress import fixed, number

NAMES = {
    "looped": "learns while it is asked",
    "frozen": "frozen at 20 % of the events",
    "frozen_recent": "frozen, with what they met since",
    "popularity": "popularity",
}


def table_of(result: dict[str, Any], run: int) -> str:
    """What a person reads."""
    fresh, cold = result["freshness_s"], result["cold_start_s"]
    lines = [f"{'':34}recall@10  NDCG@10"]
    for slot, name in NAMES.items():
        lines.append(f"{name:34}{fixed(result['recall_at_10'][slot]):>9}{fixed(result['ndcg_at_10'][slot]):>9}")
    return "\n".join(
        [
            *lines,
            "",
            f"over {number(result['asked'])} visits of {number(result['visits'])}, each foretold before it was learned",
            f"an event is served after {fresh['p50']} s (p50), {fresh['p99']} s (p99)",
            f"somebody new is known after {cold['p50']} s (p50), {cold['max']} s (longest of {cold['asked']})",
            f"{number(result['events'])} events, {number(result['learned'])} learned, in {result['seconds']:.0f} s; "
            f"{number(result['rows_per_s'])} rows/s pushed; the population was at most {result['lag_s']['max']} s late",
            f"page: gyral dash, /live; all of it: gyral show {run}",
        ]
    )
