"""Going on with an interrupted loop: which turns are finished, and whether it is the same loop."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from gyral.config import Config
from gyral.errors import NotFound, UsageError
from gyral.event.layout import Layout
from gyral.model import card as cards
from gyral.run import read_lineage, read_metrics

Row = dict[str, Any]
"""One turn, as it is in the table and in `metrics.jsonl`."""


def what_must_be_the_same(digest: str, layout: Layout | None, config: Config) -> dict[str, Any]:
    """What a loop that is resumed must share with the one before: whatever changes what is learned or asked."""
    families = {"lm": config.lm, "vision": config.vision, "recommend": config.recommend}
    parts = {"layout": layout, "curate": config.curate, "train": config.train, "compress": config.compress, **families}
    settings = {name: hashlib.sha256(msgspec.json.encode(part)).hexdigest()[:16] for name, part in parts.items()}
    return {"source": digest, "turns": config.loop.turns, "max_asked": config.loop.max_asked, **settings}


def finished_turns(root: Path, resume: int | None, same: dict[str, Any]) -> list[Row]:
    """Turns of an interrupted run that need not be repeated.

    Raises
    ------
    UsageError : the run was another loop: other source, number of turns or settings.
    """
    if resume is None:
        return []
    if read_lineage(root, resume).verb != "loop":
        raise NotFound(f"run {resume} is not a loop", hint="`gyral show` lists the runs")
    metrics = read_metrics(root, resume)
    told = next((line for line in metrics if line["type"] == "source"), None)
    differ = [name for name, value in same.items() if told is not None and told.get(name) != value]
    if differ:
        hint = f"give the options of run {resume} (`gyral show {resume}`), or start afresh without `--resume`"
        raise UsageError(f"run {resume} differs in {', '.join(differ)}", hint=hint)
    return [
        {key: value for key, value in line.items() if key not in ("time", "type")} for line in metrics if line["type"] == "turn"
    ]


def check_still_there(root: Path, rows: list[Row]) -> None:
    """Refuse to go on where the models that the finished turns made are gone.

    Raises
    ------
    NotFound : names what is missing.
    """
    for model in {rows[0]["model"], rows[-1]["model"]} if rows else set[str]():
        if not (root / cards.FOLDER / model).is_dir():
            where, hint = str(root / cards.FOLDER), "start afresh without `--resume`"
            raise NotFound(f"the model `{model}` of a finished turn is gone", where=where, hint=hint)
