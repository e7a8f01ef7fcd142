"""One turn of the loop. Read this first: it is the whole product in a page.

    ingest → curate → train → compress → serve → what people did next is asked of the served model → ingest …

A source is cut into turns + 1 slices by event time. Turn t learns slices 1…t; then, before slice t + 1 is ingested, the served
model answers over HTTP for everyone who acts in it. No event is learned from before it was predicted.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gyral.compress.quantize import compress
from gyral.config import Config, budget_seconds
from gyral.curate.interactions import curate
from gyral.errors import NotFound, QualityError, UsageError
from gyral.event.layout import Layout
from gyral.ingest.drain import Drain
from gyral.ingest.files import Slice, cut, ingest_slice, layout_of
from gyral.ingest.sources import open_source
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog
from gyral.prequential import ServedModel, baseline_slots, learned, score_turn, truth_of
from gyral.run import Run, read_lineage, read_metrics
from gyral.train.trainer import train


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
    budget_s = budget_seconds(config.train.budget) / turns
    source = open_source(config.ingest.source, root)
    layout = layout_of(source, config)
    name = config.curate.name or source.name
    run.reads("source", config.ingest.source, source.digest)
    run.metric("source", digest=source.digest, turns=turns, seed=config.train.seed)
    slices = cut(source, layout, config, turns + 1, run.meter("rows", verb="read"))
    rows = _finished_turns(root, resume, source.digest, config)
    run.note(f"loop     {source.name}: {turns} turns over {sum(part.events.num_rows for part in slices):,} events")
    with (
        SqliteLog(Lake(root).log_folder) as log,
        ServedModel(root, run) as served,
    ):
        drain = Drain(Lake(root), log, config.ingest.commit_rows)
        for row in rows:
            run.metric("turn", **row)
        for turn in range(len(rows) + 1, turns + 1):
            row = _turn(root, name, turn, slices, layout, config, run, budget_s, drain, log, served, rows)
            rows.append(row)
            run.metric("turn", **row)
        drain.run()
    result = {"turns": rows, "model": rows[-1]["model"]}
    run.writes("model", rows[-1]["model"])
    run.summarize(**result)
    return result


def _turn(
    root: Path,
    name: str,
    turn: int,
    slices: list[Slice],
    layout: Layout,
    config: Config,
    run: Run,
    budget_s: float,
    drain: Drain,
    log: SqliteLog,
    served: ServedModel,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    """Learn slice `turn`, serve, and be asked about slice `turn + 1`."""
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def lap(step: str) -> None:
        nonlocal clock
        seconds[step] = round(time.monotonic() - clock, 3)
        clock = time.monotonic()

    run.note(f"\nturn {turn} of {config.loop.turns}")
    with Run.start(root, "ingest", config, parent=run) as child:
        ingest_slice(slices[turn - 1], f"loop-{run.number}-{turn}", drain, log, config, child)
    committed = time.monotonic()
    lap("ingest")
    with Run.start(root, "curate", config, parent=run) as child:
        data = curate(root, name, config, child, learned(slices, turn))
    lap("curate")
    with Run.start(root, "train", config, parent=run, seed=config.train.seed) as child:
        card = train(root, data.name, config, child, budget_s=budget_s, name=name)
    lap("train")
    try:
        with Run.start(root, "compress", config, parent=run) as child:
            card = compress(root, card.model, config, child)
    except QualityError as refused:  # the model is served as it is
        run.note(f"compress {card.model} refused: {refused.what}; it is served uncompressed")
    lap("compress")
    served.follow(card.model, baseline_slots(rows[0]["model"] if rows else card.model))
    freshness_s = time.monotonic() - committed
    lap("swap")
    truth = truth_of(slices[turn], layout, config)
    first_until = rows[0]["learned_until"] if rows else card.learned_until
    scores, p99_ms = score_turn(truth, data, first_until, served, run)
    lap("ask")
    row = {
        "turn": turn,
        "events": slices[turn - 1].events.num_rows,
        **scores,
        "freshness_s": round(freshness_s, 3),
        "p99_ms": round(p99_ms, 3),
        "model": card.model,
        "learned_until": card.learned_until,
        "seconds": seconds,
    }
    quality = ", ".join(f"{which} {value:.4f}" for which, value in row["ndcg_at_10"].items())
    run.note(f"score    slice {turn + 1}: NDCG@10 {quality} over {len(truth.subjects):,} subjects, asked over HTTP")
    return row


def _finished_turns(root: Path, resume: int | None, digest: str, config: Config) -> list[dict[str, Any]]:
    """Turns of an interrupted run that need not be repeated.

    Raises
    ------
    UsageError : the run was another loop: other source, number of turns or seed.
    """
    if resume is None:
        return []
    if read_lineage(root, resume).verb != "loop":
        raise NotFound(f"run {resume} is not a loop", hint="`gyral show` lists the runs")
    metrics = read_metrics(root, resume)
    told = next((line for line in metrics if line["type"] == "source"), None)
    wanted = {"digest": digest, "turns": config.loop.turns, "seed": config.train.seed}
    if told is not None and {key: told[key] for key in wanted} != wanted:
        raise UsageError(f"run {resume} had another source, number of turns or seed", hint="start afresh without `--resume`")
    rows = [
        {key: value for key, value in line.items() if key not in ("time", "type")} for line in metrics if line["type"] == "turn"
    ]
    return rows[: config.loop.turns]
