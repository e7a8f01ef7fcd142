"""The curate step `my_plugin`: how much of a text is capitals, and a limit on it.

A stage adds columns to a batch and drops nothing. Its limits look at the columns afterwards, so a threshold changes without
reading a text again, and `gyral show DATASET --why FILE` can say what was measured and what was allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from gyral.config import Config
from gyral.curate.stage import Limit, Stage, add, numbers, texts_of

MOST = 0.5
"""Share of capitals among the letters, above which a text is dropped."""


@dataclass(frozen=True)
class Capitals(Stage):
    """Adds `capitals`, the share of capitals among the letters of a text. Its fields are what that depends on: nothing."""

    name: ClassVar[str] = "my_plugin"

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Add the column; rows and their order stay."""
        shares = []
        for text in texts_of(batch):
            letters = [each for each in text if each.isalpha()]
            shares.append(sum(map(str.isupper, letters)) / max(1, len(letters)))
        return add(batch, {"capitals": pa.array(shares, pa.float64())})

    def limits(self, config: Config) -> Sequence[Limit]:
        """Drop what shouts, with the reason `shouts`."""
        return [Limit("shouts", "my_plugin.capitals", ["capitals"], lambda columns: numbers(columns, "capitals"), ">", MOST)]


def stage(config: Config) -> Stage:
    """Make the stage; None would leave it out."""
    return Capitals()
