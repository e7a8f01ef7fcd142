"""One turn of the loop. Read this first: it is the whole product in a page.

    ingest → curate → train → compress → serve → what people did next is asked of the served model → ingest …

A source is cut into turns + 1 slices by event time. Turn t learns slices 1…t; then, before slice t + 1 is ingested, the served
model answers over HTTP for everyone who acts in it. No event is learned from before it was predicted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from gyral.compress.quantize import compress
from gyral.config import Config, budget_seconds
from gyral.curate.interactions import curate
from gyral.errors import QualityError
from gyral.event.layout import Layout
from gyral.files import alone
from gyral.ingest.drain import Drain
from gyral.ingest.files import Slice, app_of, cut, ingest_slice, layout_of
from gyral.ingest.sources import Source, open_source
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.model.card import FOLDER as MODELS
from gyral.prequential import FROZEN, Models, learned, score_turn, truth_of
from gyral.progress import fixed
from gyral.resume import Row, check_still_there, finished_turns, what_must_be_the_same
from gyral.run import Run
from gyral.served import ServedModel
from gyral.train.trainer import train


@dataclass
class World:
    """What all turns share: the project, what is learned from, and the open ends of log, lake and server."""

    root: Path
    config: Config
    run: Run
    source: Source
    layout: Layout
    slices: list[Slice]
    lake: Lake
    log: SqliteLog
    drain: Drain
    served: ServedModel

    @property
    def name(self) -> str:
        """Name of the datasets and models."""
        return self.config.curate.name or self.source.name


def loop(root: Path, config: Config, run: Run, resume: int | None = None) -> dict[str, Any]:
    """Turn the loop over a source; returns the summary: one row a turn, and the last model.

    Parameters
    ----------
    resume : number of an interrupted loop run of the same source and settings; its finished turns are kept.

    Raises
    ------
    InputError, UsageError : the source or the settings cannot be used; nothing was started.
    """
    turns = config.loop.turns
    run.resume_as = resume
    source = open_source(config.ingest.source, root, run.note)
    layout = layout_of(source, config)
    run.reads("source", config.ingest.source, source.digest)
    same = what_must_be_the_same(source.digest, layout, config)
    rows = finished_turns(root, resume, same)[:turns]
    run.metric("source", **same)
    for row in rows:
        run.metric("turn", **row)
    run.resume_as = run.number
    slices = cut(source, layout, config, turns + 1, run.meter("rows", verb="read"))
    run.note(f"loop     {source.name}: {turns} turns over {sum(part.events.num_rows for part in slices):,} events")
    lake = Lake.of(root, config)
    app = app_of(lake, slices[0].events, layout, source.name)
    check_still_there(root, lake, rows, slices)
    if not config.curate.apps and "app" not in layout.columns:  # a folder may hold other sources too
        config = replace(config, curate=replace(config.curate, apps=[app]))
    name = config.curate.name or source.name
    with (
        alone(root / MODELS / f".{name}.loop", "another loop makes models of this name here"),
        SqliteLog(lake.log_folder) as log,
    ):
        drain = Drain.of(lake, log, config)
        with ServedModel(root, config, run) as served:
            world = World(root, config, run, source, layout, slices, lake, log, drain, served)
            for turn in range(len(rows) + 1, turns + 1):
                rows.append(_turn(world, turn, rows[0]["model"] if rows else None))
                run.metric("turn", **rows[-1])
        drain.run()  # once the server has ended: only then is its last answer in the log
    result = {"turns": rows, "model": rows[-1]["model"]}
    run.writes("model", rows[-1]["model"])
    run.summarize(**result)
    return result


def _turn(world: World, turn: int, first_model: str | None) -> Row:
    """Learn slice `turn`, serve, and be asked about slice `turn + 1`."""
    root, config, run, slices = world.root, world.config, world.run, world.slices
    budget_s = budget_seconds(config.train.budget) / config.loop.turns
    truth = truth_of(slices[turn], world.layout, config)
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def lap(step: str) -> None:
        nonlocal clock
        seconds[step] = round(time.monotonic() - clock, 3)
        clock = time.monotonic()

    run.note(f"\nturn {turn} of {config.loop.turns}")
    with Run.start(root, "ingest", config, parent=run) as child:
        name = f"{world.layout.digest}:{turn}/{len(slices)}"
        send = world.served.send if world.served.url else None  # what people did is sent to the server that answered them
        ingest_slice(slices[turn - 1], world.source, name, world.drain, world.lake, world.log, config, child, send)
    committed = time.monotonic()
    lap("ingest")
    with Run.start(root, "curate", config, parent=run) as child:
        data = curate(root, world.name, config, child, learned(slices, turn))
    lap("curate")
    with Run.start(root, "train", config, parent=run, seed=config.train.seed) as child:
        card = train(root, data.name, config, child, budget_s=budget_s, name=world.name)
    lap("train")
    try:
        with Run.start(root, "compress", config, parent=run) as child:
            card = compress(root, card.model, config, child)
    except QualityError as refused:  # the model is served as it is
        run.note(f"compress {card.model} refused: {refused.what}; it is served uncompressed")
    lap("compress")
    models = Models(card.model, first_model or card.model)
    world.served.follow(models.looped, {FROZEN: models.frozen})
    lap("swap")
    scored = score_turn(truth, data, slices[0], models, world.served)
    lap("ask")
    row = {
        "turn": turn,
        "events": slices[turn - 1].events.num_rows,
        **scored.quality,
        "freshness_s": None if scored.first_at is None else round(scored.first_at - committed, 3),
        "p99_ms": None if scored.p99_ms is None else round(scored.p99_ms, 3),
        "model": card.model,
        "learned_until": card.learned_until,
        "seconds": seconds,
    }
    quality = ", ".join(f"{which} {fixed(value)}" for which, value in row["ndcg_at_10"].items())
    asked = f"{len(truth.subjects):,} of " if len(truth.subjects) < truth.num_acted else ""
    run.note(f"score    slice {turn + 1}: NDCG@10 {quality} over {asked}{truth.num_acted:,} subjects, asked over HTTP")
    return row
