"""What people do, cut by event time; asked for everyone who acts in the next slice. No event is learned from before it was
foretold."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from gyral.config import Config
from gyral.course.base import Scored
from gyral.curate.interactions import curate
from gyral.errors import NotFound
from gyral.ingest.drain import Drain
from gyral.ingest.files import Slice, app_of, cut, ingest_slice, layout_of
from gyral.ingest.sources import open_source
from gyral.lake.dataset import Dataset
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.prequential import learned, score_turn, truth_of
from gyral.progress import fixed
from gyral.resume import Row, what_must_be_the_same
from gyral.run import Run
from gyral.served import Models, ServedModel


class Behaviour:
    """Events of a file or package."""

    def __init__(self, root: Path, config: Config, run: Run) -> None:
        self._root, self._config, self._run = root, config, run
        self._source = open_source(config.ingest.source, root, run.note)
        self._layout = layout_of(self._source, config)
        self._lake = Lake.of(root, config)
        self._slices: list[Slice] = []
        run.reads("source", config.ingest.source, self._source.digest)
        self.name = config.curate.name or self._source.name
        self.same = what_must_be_the_same(self._source.digest, self._layout, config)

    def cut(self, rows: list[Row]) -> None:
        """Cut by event time."""
        config, run, turns = self._config, self._run, self._config.loop.turns
        self._slices = cut(self._source, self._layout, config, turns + 1, run.meter("rows", verb="read"))
        num_events = sum(part.events.num_rows for part in self._slices)
        run.note(f"loop     {self._source.name}: {turns} turns over {num_events:,} events")
        app = app_of(self._lake, self._slices[0].events, self._layout, self._source.name)
        for part in self._slices[: len(rows)]:
            if (
                not self._lake.exists("events")
                or self._lake.snapshot("events").find(part.events["event_id"][-1].as_py()) is None
            ):
                hint = "start afresh without `--resume`"
                raise NotFound(
                    "events that a finished turn learned are not in the lake", where=str(self._lake.folder), hint=hint
                )
        if not config.curate.apps and "app" not in self._layout.columns:  # a folder may hold other sources too
            self._config = replace(config, curate=replace(config.curate, apps=[app]))

    def ingest(self, turn: int, drain: Drain, log: SqliteLog, served: ServedModel, run: Run) -> int:
        """The first slice as a file; what people did next is sent to the server that answered them."""
        part, name = self._slices[turn - 1], f"{self._layout.digest}:{turn}/{len(self._slices)}"
        send = served.send if served.url else None
        ingest_slice(part, self._source, name, drain, self._lake, log, self._config, run, send)
        return int(part.events.num_rows)

    def curate(self, turn: int, run: Run) -> Dataset:
        """Interactions."""
        return curate(self._root, self.name, self._config, run, learned(self._slices, turn))

    def training(self, turn: int, last: str) -> Config:
        """Always the same: each turn learns anew from all that was shown so far."""
        return self._config

    def ask(self, turn: int, data: Dataset, models: Models, served: ServedModel) -> Scored:
        """NDCG@10 by full ranking."""
        truth = truth_of(self._slices[turn], self._layout, self._config)
        scored = score_turn(truth, data, self._slices[0], models, served)
        scores = scored.quality["ndcg_at_10"]
        quality = ", ".join(f"{which} {fixed(value)}" for which, value in scores.items())
        asked = f"{len(truth.subjects):,} of " if len(truth.subjects) < truth.num_acted else ""
        told = f"NDCG@10 {quality} over {asked}{truth.num_acted:,} subjects"
        named = {"metric": "ndcg_at_10", "baseline": "popularity", "scores": scores}
        return Scored({**named, **scored.quality}, scored.p99_ms, scored.first_at, told)
