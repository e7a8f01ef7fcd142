"""What silence cost a server that was under load, and what its answers took without it: told beside an operating point.

A rate at which nobody waits is one at which the server sleeps between requests, so its seconds overstate what a busy one takes
(`gyral.plan.cold`). Whoever plans reads here what was paid for sleeping, and the seconds of a server that was awake.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gyral.bench import points
from gyral.bench.record import OK, Record
from gyral.bench.traffic import Traffic
from gyral.plan.cold import FEWEST, cold_of, idle_before


def told(traffic: Traffic, record: Record) -> dict[str, Any] | None:
    """Of those who were answered and found nobody; None where they are too few to tell by.

    Returns
    -------
    `slower` and `cools_ms` as `gyral.plan.cold.Cold` has them; `num_samples`, `mean_ms` and `curve` (as of a load) of what they
    took, had the server been awake.
    """
    outcome, done_s = np.frombuffer(record.outcome, np.uint8), np.frombuffer(record.done_s)
    idle_s = idle_before(traffic.due_s, done_s)
    alone = (outcome == OK) & (idle_s > 0)
    if int(alone.sum()) < FEWEST:
        return None
    idle_s, seconds = idle_s[alone], (done_s - traffic.due_s)[alone]
    cold = cold_of(idle_s, seconds)
    warm_ms = 1e3 * seconds / cold.factor(idle_s)
    return {
        "slower": round(cold.slower, 4), "cools_ms": round(1e3 * cold.cools_s, 4), "num_samples": len(warm_ms),
        "mean_ms": round(float(warm_ms.mean()), 4), "curve": points.curve(warm_ms),
    }  # fmt: skip
