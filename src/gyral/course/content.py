"""What is written and drawn, cut by name; asked what the next pages say, and which new picture a caption is of.

Documents carry no time that could be believed, so a slice is what a hash of their last name says: what has one name (the
translations of a page, the renderings of a picture) comes in together, and is foretold together.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from gyral.config import Config
from gyral.course import asked
from gyral.course.base import Scored
from gyral.curate import documents, readers
from gyral.errors import InputError, NotFound, UsageError
from gyral.ingest.documents import to_events
from gyral.ingest.drain import Drain
from gyral.ingest.files import append, report
from gyral.lake.arrivals import SCHEME
from gyral.lake.dataset import Dataset
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.resume import Row, what_must_be_the_same
from gyral.run import Run
from gyral.served import Models, ServedModel


class Content:
    """Documents of a place, in memory."""

    def __init__(self, root: Path, config: Config, run: Run) -> None:
        self._root, self._config, self._run = root, config, run
        options = readers.Options(config.curate.text_field, config.curate.url_field, config.curate.language_field)
        self._place = readers.open_place(config.ingest.source, root, run.note, options=options)
        self._slices: list[list[pa.RecordBatch]] = []
        parts = [
            [part.root, part.begin, part.end, [[file.path, file.stamp] for file in part.files]] for part in self._place.parts
        ]
        self._digest = hashlib.sha256(repr(parts).encode()).hexdigest()
        self._lake = Lake.of(root, config)
        run.reads("source", config.ingest.source, self._digest)
        self.name = config.curate.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", self._place.name).strip("-.")
        self.same = what_must_be_the_same(self._digest, None, config)

    def cut(self, rows: list[Row]) -> None:
        """Read everything and cut it by name."""
        run, turns = self._run, self._config.loop.turns
        meter = run.meter("bytes", sum(part.size_bytes for part in self._place.parts), verb="read")
        self._slices = [[] for _ in range(turns + 1)]
        done = 0
        for part in self._place.parts:
            for batch in readers.read(part):
                numbers = slices_of(batch.column("file").to_pylist(), turns + 1)
                for number, slice_ in enumerate(self._slices):
                    some = batch.filter(pa.array(numbers == number))
                    if some.num_rows:
                        slice_.append(some)
            done += part.size_bytes
            meter.update(done)
        counts = [sum(batch.num_rows for batch in slice_) for slice_ in self._slices]
        if not all(counts):
            hint = "use fewer `--turns`, or a source of more documents"
            raise InputError(f"`{self._place.name}` has too few documents for {turns + 1} slices", why=f"{counts}", hint=hint)
        if self._config.train.family == "vision":
            self._refuse_without_captions()
        run.note(f"loop     {self._place.name}: {turns} turns over {sum(counts):,} {self._place.kind} rows")
        if rows and not self._lake.exists("events"):
            hint = "start afresh without `--resume`"
            raise NotFound("what finished turns learned is not in the lake", where=str(self._lake.folder), hint=hint)

    def _refuse_without_captions(self) -> None:
        """A caption is the only question about pictures that come: a model that knows none, or pictures without, have none."""
        task = self._config.train.task or "contrastive"
        hint = f"the loop asks captions; `gyral train NAME --family vision --set train.task={task}` learns from pictures alone"
        if task != "contrastive":
            raise UsageError(f"a model of the task `{task}` knows no captions, by which a loop could ask it", hint=hint)
        if self._place.kind == "pairs":
            asked_of = self._slices[1:]
            captions = [any(text for batch in part for text in batch.column("text").to_pylist()) for part in asked_of]
            if all(captions):
                return
        hint = "write `NAME.txt` beside each picture, or `metadata.jsonl`; `gyral train` learns from pictures alone (`masked`)"
        raise InputError(f"`{self._place.name}` has no captions, by which a loop could ask about new pictures", hint=hint)

    def ingest(self, turn: int, drain: Drain, log: SqliteLog, served: ServedModel, run: Run) -> int:
        """Documents as events, through the log."""
        run.reads("source", self._config.ingest.source, self._digest)
        meter = run.meter("documents")
        events = [to_events(batch, self._place.name) for batch in self._slices[turn - 1]]
        name = f"{self._digest}:content:{turn}/{len(self._slices)}"
        rows_in, known = append(self._lake, log, name, ((each, None) for each in events), meter)
        drained = drain.run()
        drained.duplicate += known
        report(run, rows_in, drained, meter)
        return rows_in

    def curate(self, turn: int, run: Run) -> Dataset:
        """All documents that the lake has of this source, and what people said of answers."""
        of_lake = replace(self._config.curate, source=f"{SCHEME}{self._place.name}")
        return documents.curate(self._root, self.name, replace(self._config, curate=of_lake), run)

    def training(self, turn: int, last: str) -> Config:
        """Each turn goes on from the weights of the one before."""
        config = self._config
        return replace(config, train=replace(config.train, start=last or config.train.start))

    def ask(self, turn: int, data: Dataset, models: Models, served: ServedModel) -> Scored:
        """By what the family foretells."""
        ask = asked.pictures if self._place.kind == "pairs" else asked.pages
        return ask(self._slices[turn], data, models, served, self._config)


def slices_of(files: list[str], count: int) -> np.ndarray:
    """Slice of each file: a hash of its last name without ending."""
    return np.fromiter((_number(file) % count for file in files), np.int64, len(files))


def _number(file: str) -> int:
    stem = file.rpartition("/")[2].partition(".")[0]
    return int.from_bytes(hashlib.blake2b(stem.encode("utf-8", "replace"), digest_size=8).digest())
