"""`gyral serve MODEL --plan --users 1e9`: what answers a population, and what that costs a day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gyral.config import Config
from gyral.errors import GyralError, NotFound
from gyral.model import card as cards
from gyral.plan import people
from gyral.plan.cost import PRICES, Bill, bill
from gyral.plan.figure import Figure, Plan
from gyral.plan.service import Work, of_card, of_run, of_sheet
from gyral.plan.serving import Pod, need
from gyral.plan.verbs import Asked
from gyral.run import numbers, read_lineage

USERS = 1e6
ANSWER_BYTES = Figure(2_000.0, "bytes", "assumed", "of an answer", 500, 4_000)
ASSUMED_MS = 5.0


def plan(root: Path, config: Config, asked: Asked) -> tuple[Plan, Bill]:
    """What answers so many users, a million where it is not said.

    Raises
    ------
    NotFound : there is no such model.  UsageError : no rate holds the limit.
    """
    card = cards.read_card(cards.find(root, asked.what))
    crowd = people.population(asked.users or USERS, asked.per_user)
    work = _work(root, card)
    told = need(crowd, Pod(work), asked.p99_ms / 1e3, head=0.1)
    events = people.caused(crowd)
    peak = max(told.peak_per_s.values())
    found: Plan = {
        "requests": crowd.per_day,
        "peak of a region": Figure(peak, "1/s", crowd.per_day.by, "its worst minute, with its share of a region that is lost"),
        "an answer": work.alone_s,
        "a worker holds": told.pod_per_s,
        "workers": told.total,
        "cores": told.cores,
        "events": events.events,
        "log": events.log_bytes,
        "lake": events.lake_bytes,
    }
    total = bill(
        {
            **PRICES, "cores": told.cores, "held_share": Figure(0.7, "", "assumed", "of an autoscaler", 0.5, 1.0),
            "ingest_cores": events.cores, "requests": crowd.per_day, "answer_bytes": ANSWER_BYTES,
            "lake_bytes": events.lake_bytes, "keep_days": people.KEEP_DAYS,
            "trainings": Figure(24.0, "1/day", "assumed", "each hour", 4, 96),
            "device_hours": Figure(1.0, "h", "assumed", "of accelerators of a training", 0.1, 8),
        }
    )  # fmt: skip
    found["cost"] = total.total
    return found, total


def _work(root: Path, card: Any) -> Work:
    """Seconds of an answer: from the newest load test of this project, else the model's card, else assumed."""
    for number in sorted(numbers(root), reverse=True):
        try:
            if read_lineage(root, number).verb == "bench":
                return of_run(root, number)
        except GyralError:  # damaged, or without a valid point
            continue
    try:
        return of_card(card)
    except NotFound:
        why = "an answer; `gyral bench serve` or `gyral compress MODEL --tiers server` measures it"
        told = of_sheet(ASSUMED_MS / 1e3, why, off=3.0)
        return told._replace(fixed_s=told.fixed_s._replace(by="assumed"), each_s=told.each_s._replace(by="assumed"))
