"""How many people, as `--plan` is asked: users of a day in three regions with two bursts, and the events that they cause."""

from __future__ import annotations

import math

from gyral.plan.cost import PRICES, Bill, Values, bill
from gyral.plan.figure import Figure, Plan, weakest
from gyral.plan.freshness import DRAIN_S, EVENTS_PER_CPU_S, Volume, volume
from gyral.plan.product import product, scaled
from gyral.plan.traffic import Bursts, Population, Region

ASSUMED_REQUESTS = 20.0
EVENTS_AN_ANSWER = Figure(3.0, "", "assumed", "events an answer", 2, 5)
REGIONS = (Region("americas", 0.3, -5), Region("europe", 0.3, 1), Region("asia", 0.4, 8))
BUSY = 0.5
"""Share of a collector's rate that its worst minute may take: the other half is for the drain beside it."""
KEEP_DAYS = Figure(365.0, "days", "assumed", "a year", 90, 730)


def population(users: float, per_user: float) -> Population:
    """So many users; requests of one in a day are assumed where 0."""
    asked = Figure(per_user, "1/day", "counted", "as asked")
    if not per_user:
        asked = Figure(ASSUMED_REQUESTS, "1/day", "assumed", "of a user", ASSUMED_REQUESTS / 3, ASSUMED_REQUESTS * 3)
    return Population(Figure(users, "", "counted", "as asked"), asked, REGIONS, bursts=Bursts(factor=1.5, per_day=3))


def caused(people: Population) -> Volume:
    """Events of a day: answers, and what is shown and clicked."""
    return volume(people.per_day, EVENTS_AN_ANSWER)


def intake(people: Population) -> tuple[Plan, Bill]:
    """What taking the events of a population in needs, and what that costs a day."""
    events = caused(people)
    peaks = {name: EVENTS_AN_ANSWER.value * rate for name, rate in people.peak().items()}
    shares = {each.name: each.share for each in people.regions}
    lost = max(shares.values())  # the largest region's events go to the others, by their own size
    carried = {name: peak / (1 - lost) if shares[name] < lost else peak for name, peak in peaks.items()}
    by = weakest(events.events, EVENTS_PER_CPU_S)
    low, high = (bound / events.events.value for bound in events.events.interval)

    def collectors(factor: float) -> int:
        return sum(math.ceil(factor * peak / (BUSY * EVENTS_PER_CPU_S.value)) for peak in carried.values())

    num = collectors(1.0)
    many = Figure(
        num, "", by, f"one thread each, {BUSY:.0%} busy in the worst minute, one region lost", collectors(low), collectors(high)
    )
    peak = scaled(events.events, max(peaks.values()) / events.events.value)._replace(unit="1/s", why="a region's worst minute")
    plan: Plan = {
        "events": events.events,
        "peak of a region": peak,
        "log": events.log_bytes,
        "lake": events.lake_bytes,
        "kept": product("bytes", "bytes of a day in the lake · days kept", events.lake_bytes, KEEP_DAYS),
        "cores": events.cores._replace(why="on average; events of a day / events of a CPU-second"),
        "collectors": many,
        "partitions": many._replace(why="each collector appends to one of its own"),
        "freshness": DRAIN_S,
    }
    total = bill({**PRICES, "ingest_cores": scaled(events.cores, 1 / BUSY), "lake_bytes": events.lake_bytes,
                  "keep_days": KEEP_DAYS}, _day)  # fmt: skip
    plan["cost"] = total.total
    return plan, total


def _day(v: Values) -> dict[str, object]:
    return {
        "ingest": 24 * v["ingest_cores"] * v["usd_core_hour"],
        "storage": v["lake_bytes"] * v["keep_days"] / 1e9 * v["usd_gb_month"] / 30.4,
    }
