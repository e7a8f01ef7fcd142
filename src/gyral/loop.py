"""One turn of the loop. Read this first: it is the whole product in a page.

    ingest → curate → train → compress → serve → what came next is asked of the served model → ingest …

A source is cut into turns + 1 slices. Turn t learns slices 1…t; then, before slice t + 1 is ingested, the served model is asked
about it over HTTP: what people will do, what a page will say, which picture a caption is of. Nothing is learned from before it
was foretold. What differs between families is in `course/`.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gyral import plugins
from gyral.compress.quantize import compress
from gyral.config import Config, budget_seconds
from gyral.course.base import Course, open_course
from gyral.errors import QualityError
from gyral.files import alone
from gyral.ingest.drain import Drain
from gyral.lake.table import Lake
from gyral.log.opening import open_embedded
from gyral.log.sqlite import SqliteLog
from gyral.model.card import FOLDER as MODELS
from gyral.resume import Row, check_still_there, finished_turns
from gyral.run import Run
from gyral.served import FROZEN, Models, ServedModel
from gyral.train.trainer import train


@dataclass
class World:
    """What all turns share: the project, what is learned from, and the open ends of log, lake and server."""

    root: Path
    config: Config
    run: Run
    course: Course
    log: SqliteLog
    drain: Drain
    served: ServedModel
    given: Collection[str] | None


def loop(
    root: Path, config: Config, run: Run, resume: int | None = None, given: Collection[str] | None = None
) -> dict[str, Any]:
    """Turn the loop over a source; returns the summary: one row a turn, and the last model.

    Parameters
    ----------
    given : settings that stand where a law would choose the sizes of a turn's model, as `train` has it.
    resume : number of an interrupted loop run of the same source and settings; its finished turns are kept.

    Raises
    ------
    InputError, UsageError : the source or the settings cannot be used; nothing was started.
    """
    turns = config.loop.turns
    run.resume_as = resume
    course = open_course(root, config, run)
    rows = finished_turns(root, resume, course.same)[:turns]
    run.metric("source", **course.same)
    for row in rows:
        run.metric("turn", **row)
    run.resume_as = run.number
    check_still_there(root, rows)
    course.cut(rows)
    lake = Lake.of(root, config)
    with (
        alone(root / MODELS / f".{course.name}.loop", "another loop makes models of this name here"),
        open_embedded(lake.log_folder, config) as log,
    ):
        drain = Drain.of(lake, log, config)
        with ServedModel(root, config, run) as served:
            world = World(root, config, run, course, log, drain, served, given)
            for turn in range(len(rows) + 1, turns + 1):
                rows.append(_turn(world, turn, rows))
                run.metric("turn", **rows[-1])
        drain.run()  # once the server has ended: only then is its last answer in the log
    result = {"turns": rows, "model": rows[-1]["model"]}
    run.writes("model", rows[-1]["model"])
    run.summarize(**result)
    return result


def _turn(world: World, turn: int, before: list[Row]) -> Row:
    """Learn slice `turn`, serve, and be asked about slice `turn + 1`."""
    root, config, run, course = world.root, world.config, world.run, world.course
    budget_s = budget_seconds(config.train.budget) / config.loop.turns
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def lap(step: str) -> None:
        nonlocal clock
        seconds[step] = round(time.monotonic() - clock, 3)
        clock = time.monotonic()

    run.note(f"\nturn {turn} of {config.loop.turns}")
    with Run.start(root, "ingest", config, parent=run) as child:
        num_events = course.ingest(turn, world.drain, world.log, world.served, child)
    committed = time.monotonic()
    lap("ingest")
    with Run.start(root, "curate", config, parent=run) as child:
        data = course.curate(turn, child)
    lap("curate")
    settings = course.training(turn, before[-1].get("trained", "") if before else "")
    with Run.start(root, "train", settings, parent=run, seed=config.train.seed) as child:
        card = train(root, data.name, settings, child, budget_s=budget_s, name=course.name, given=world.given)
    trained = card.model
    lap("train")
    if plugins.find("family", card.family).matrices:
        try:
            with Run.start(root, "compress", config, parent=run) as child:
                card = compress(root, card.model, config, child)
        except QualityError as refused:  # the model is served as it is
            run.note(f"compress {card.model} refused: {refused.what}; it is served uncompressed")
        lap("compress")
    models = Models(card.model, before[0]["model"] if before else card.model)
    world.served.follow(models.looped, {FROZEN: models.frozen})
    lap("swap")
    scored = course.ask(turn, data, models, world.served)
    lap("ask")
    run.note(f"score    slice {turn + 1}: {scored.told}, asked over HTTP")
    return {
        "turn": turn,
        "events": num_events,
        **scored.quality,
        "freshness_s": None if scored.first_at is None else round(scored.first_at - committed, 3),
        "p99_ms": None if scored.p99_ms is None else round(scored.p99_ms, 3),
        "model": card.model,
        "trained": trained,
        "learned_until": card.learned_until,
        "seconds": seconds,
    }
