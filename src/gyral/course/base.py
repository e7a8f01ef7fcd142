"""The seam between the loop and what it is turned over.

A course cuts a source into turns + 1 slices. In turn t slice t is brought into the lake, everything shown so far is curated,
and the model that learned it is asked about slice t + 1 over HTTP, which nobody has learned from yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from gyral.config import Config
from gyral.ingest.drain import Drain
from gyral.lake.dataset import Dataset
from gyral.log.sqlite import SqliteLog
from gyral.resume import Row
from gyral.run import Run
from gyral.served import Models, ServedModel


class Scored(NamedTuple):
    """One turn's answers in numbers.

    Attributes
    ----------
    quality : what the row of the turn holds of them: `metric`, `baseline` (names), `scores` (looped, frozen and the baseline,
        None where nobody was asked), `num_asked`, and more of the family's own.
    p99_ms : latency of the looped model's answers, None when nobody was asked.
    first_at : when its first answer came (`time.monotonic`).
    told : the line that says it to a person.
    """

    quality: Row
    p99_ms: float | None
    first_at: float | None
    told: str


class Course(Protocol):
    """One source in slices.

    Attributes
    ----------
    name : of the datasets and models.
    same : what a loop that is resumed must share with the one before: digests of the source and of all that changes what is
        learned.
    """

    name: str
    same: Row

    def cut(self, rows: list[Row]) -> None:
        """Read the source and cut it; refuse to go on where what finished turns brought into the lake is gone."""

    def ingest(self, turn: int, drain: Drain, log: SqliteLog, served: ServedModel, run: Run) -> int:
        """Bring slice `turn` into the lake; how many events it had."""

    def curate(self, turn: int, run: Run) -> Dataset:
        """Everything shown so far as a dataset."""

    def training(self, turn: int, last: str) -> Config:
        """The configuration that this turn's model is trained by; `last` is the model of the turn before, empty in the
        first."""

    def ask(self, turn: int, data: Dataset, models: Models, served: ServedModel) -> Scored:
        """Ask the served models about slice `turn + 1`."""


def open_course(root: Path, config: Config, run: Run) -> Course:
    """The course of a family over the source that the configuration names."""
    if config.train.family == "recommender":
        from gyral.course.behaviour import Behaviour

        return Behaviour(root, config, run)
    from gyral.course.content import Content

    return Content(root, config, run)
