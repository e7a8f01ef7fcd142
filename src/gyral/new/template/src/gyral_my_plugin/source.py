"""The source `my_plugin:NUMBER`: so many made visits of a small shop. Put the place that your events come from here.

A source gives batches of rows whose columns it names; those of the envelope (`subject`, `object`, `event_time`, …) need no map.
Reading it twice must give the same rows: then what was ingested already is recognised by its digest and never counted twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from gyral.errors import UsageError
from gyral.ingest.sources import Rows

START_S = 1_767_225_600
"""1 January 2026, 00:00 UTC."""
EVERY_S = 420
MORNING, EVENING = ("bread", "coffee", "milk"), ("wine", "cheese", "olives")
MAX_ROWS = 10_000_000


def open_source(uri: str, root: Path, note: Callable[[str], None]) -> Visits:
    """Open what `--source my_plugin:NUMBER` names.

    Parameters
    ----------
    root : the project folder.
    note : say by it what takes long.
    """
    number = uri.partition(":")[2]
    if not (number.isascii() and number.isdigit() and 0 < int(number[:9]) <= MAX_ROWS):
        raise UsageError(f"`{uri}` names no number of visits", hint=f"1 to {MAX_ROWS:,}: `--source my_plugin:2000`")
    return Visits(int(number))


class Visits:
    """Visits, one every seven minutes: some things are met in the morning, others in the evening."""

    def __init__(self, num_rows: int) -> None:
        self.name = "my_plugin"
        self.num_rows: int | None = num_rows
        self.digest = hashlib.sha256(f"visits, first edition, {num_rows}".encode()).hexdigest()
        self.size_bytes = 24 * num_rows
        self.columns = ["subject", "object", "event_time", "kind"]

    def batches(self, batch_rows: int) -> Iterator[Rows]:
        """The rows in order, some at a time; all are made of their number alone."""
        for first in range(0, self.num_rows or 0, batch_rows):
            numbers = np.arange(first, min(first + batch_rows, self.num_rows or 0))
            dice = (numbers * 2_654_435_761) % 1_000  # a hash: every run and every machine throws the same
            times = START_S + EVERY_S * numbers
            is_morning = times // 3_600 % 24 < 12
            things = np.where(is_morning, np.array(MORNING)[dice % 3], np.array(EVENING)[dice % 3])
            columns = {
                "subject": [f"visitor {dice_of % 50}" for dice_of in dice.tolist()],
                "object": things.tolist(),
                "event_time": times.tolist(),
                "kind": ["visit"] * len(numbers),
            }
            yield Rows(first, pa.RecordBatch.from_pydict(columns), [])
