"""A run's summary → a few words, which lists, the ring and the search show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gyral.dash import formats

METRICS = ("ndcg_at_10", "r_at_1", "probe_accuracy")
"""Of families and tasks: shares that their models are compared by."""
OTHER_METRICS = {"bits_per_byte": "bits per byte", "effective_rank": "directions used", "loss": "loss"}
"""Those that are no shares, as words."""


def headline(verb: str, summary: Mapping[str, Any]) -> str:
    """Say in a few words what a run brought."""
    get = summary.get
    if verb == "ingest" and formats.is_number(get("accepted")):
        return f"{formats.count(get('accepted'))} rows in"
    if verb == "curate" and formats.is_number(get("rows_kept")):
        return f"{formats.count(get('rows_kept'))} kept"
    if verb == "train":
        measured = next((name for name in METRICS if formats.is_number(get(name))), "")
        if measured:
            return f"{get('chosen') or 'best'}, {formats.metric_name(measured)} {formats.metric(get(measured))}"
        measured = next((name for name in OTHER_METRICS if formats.is_number(get(name))), "")
        if measured:
            return f"{get('chosen') or 'model'}, {get(measured):.3f} {OTHER_METRICS[measured]}"
    if verb == "compress" and formats.is_number(get("bytes_before")) and get("bytes_after"):
        return f"{get('to', '')} {get('bytes_before', 0) / get('bytes_after', 1):.1f}× smaller".strip()
    if verb == "serve" and formats.is_number(get("impressions")):
        return f"{formats.count(get('impressions'))} answers"
    if verb == "serve" and formats.is_number(get("p99_ms")):
        return f"p99 {formats.milliseconds(get('p99_ms'))}"
    if verb == "bench" and formats.is_number(get("achieved_per_s")):
        return f"{formats.count(get('achieved_per_s'))}/s, p99 {formats.milliseconds(get('p99_ms'))}"
    if verb == "eval" and isinstance(get("ndcg_at_10"), dict) and formats.is_number(get("ndcg_at_10", {}).get("model")):
        return f"NDCG@10 {formats.metric(get('ndcg_at_10', {})['model'])}"
    if verb == "loop" and formats.is_number(get("visits")) and formats.is_number(get("events")):
        return f"live, {formats.count(get('events'))} events"
    if verb == "loop" and isinstance(get("turns"), list):
        return formats.plural(len(get("turns", [])), "turn")
    return ""
