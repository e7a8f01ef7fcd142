"""One file on disk → one struct, with damage tolerated: a page about a broken file says so instead of breaking.

Every field has a default, so a card of an older version reads. What cannot be decoded at all becomes a record with its
`problem` set. Names are checked against `NAME` before they touch the file system; a path never comes from a request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gyral.errors import GyralError, NotFound
from gyral.lake import dataset as datasets
from gyral.model import card as cards
from gyral.run import FOLDER as RUNS
from gyral.run import Lineage, numbers, read_lineage, read_metrics

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}@[1-9][0-9]{0,8}")
NUMBER = re.compile(r"[1-9][0-9]{0,8}")
MAX_TEXT_BYTES = 64 * 1024
MAX_RUNS = 1_000
UNRECORDED = "no record"


class Turn(msgspec.Struct):
    """One turn of the loop, as its run wrote it."""

    turn: int
    time: float | None = None
    events: int | None = None
    num_asked: int | None = None
    metric: str = "ndcg_at_10"
    baseline: str = "popularity"
    scores: dict[str, float | None] = {}
    ndcg_at_10: dict[str, float | None] = {}
    recall_at_10: dict[str, float | None] = {}
    hit_at_10: dict[str, float | None] = {}
    known: dict[str, dict[str, float | None]] = {}
    freshness_s: float | None = None
    p99_ms: float | None = None
    model: str = ""
    seconds: dict[str, float] = {}


class Card(cards.Card):
    """`models/<name>@<n>/card.json`; `problem` says why it could not be read."""

    problem: str = ""


class Manifest(datasets.Manifest):
    """`datasets/<name>@<n>/manifest.json`; `problem` says why it could not be read."""

    problem: str = ""


Record = TypeVar("Record", Card, Manifest)
Row = TypeVar("Row")
Told = TypeVar("Told")
MAX_POINTS = 240
REFRESH_S = 2
"""Of a page of what happens now."""


def exists(root: Path, folder: str, name: str) -> bool:
    """Tell whether `name`, for example `online_retail@3`, is there; False for anything that is not such a name."""
    return bool(NAME.fullmatch(name)) and (root / folder / name).is_dir()


def read_card(root: Path, name: str) -> Card:
    """Read a model's card."""
    card = _read(root / "models" / name / "card.json", Card, Card())
    card.model = name  # the folder's name is the address, whatever the file says
    return card


def read_manifest(root: Path, name: str) -> Manifest:
    """Read a dataset's manifest."""
    manifest = _read(root / "datasets" / name / "manifest.json", Manifest, Manifest())
    manifest.dataset = name
    return manifest


def names(root: Path, folder: str) -> list[str]:
    """All published versions in `models` or `datasets`, by name and then by number, newest last."""
    try:
        found = [entry for entry in os.listdir(root / folder) if NAME.fullmatch(entry)]
    except OSError:
        return []
    return sorted(found, key=lambda name: (name.rpartition("@")[0], int(name.rpartition("@")[2])))


def read_run(root: Path, number: int) -> Lineage:
    """Read a run; a folder without a readable lineage becomes a run with the status `no record`."""
    try:
        return read_lineage(root, number)
    except (GyralError, OSError):
        return Lineage(run=number, verb="", status=UNRECORDED, started="")


def read_runs(root: Path) -> tuple[list[Lineage], int]:
    """Read the newest runs, newest first, and say how many there are in all."""
    known = numbers(root)
    return [read_run(root, number) for number in reversed(known[-MAX_RUNS:])], len(known)


def newest(
    root: Path, verb: str, of_lines: Callable[[list[dict[str, Any]]], Told | None], none: str, hint: str
) -> tuple[Lineage, Told]:
    """The newest run of a verb whose lines say something, and what.

    Raises
    ------
    NotFound : there is none; said in the words of `none`, with the command that makes one.
    """
    found, _ = read_runs(root)
    for run in found:
        if run.verb == verb and (told := of_lines(read_lines(root, run.run))) is not None:
            return run, told
    raise NotFound(none, hint=hint)


def heading(run: Lineage) -> dict[str, Any]:
    """What a page of what happens now begins with."""
    running = run.status == "running"
    return {"run": run.run, "status": run.status, "running": running, "refresh_s": REFRESH_S, "summary": run.summary}


def thinned(rows: Sequence[Row]) -> Sequence[Row]:
    """At most 240 of them, evenly spaced, with the last."""
    step = -(-len(rows) // MAX_POINTS) or 1
    return rows[::-1][::step][::-1]


def read_lines(root: Path, number: int) -> list[dict[str, Any]]:
    """Read a run's metrics; torn or foreign lines are left out."""
    try:
        return [row for row in read_metrics(root, number) if isinstance(row, dict)]
    except OSError:
        return []


def read_turns(lines: list[dict[str, Any]], summary: dict[str, Any]) -> list[Turn]:
    """Take the turns out of a loop's metrics, or out of its summary when there are no metrics."""
    rows: Any = [row for row in lines if row.get("type") == "turn"] or summary.get("turns")
    turns: dict[int, Turn] = {}
    for row in rows if isinstance(rows, list) else []:
        try:
            turn = msgspec.convert(row, Turn)
        except msgspec.ValidationError:
            continue
        turn.scores = turn.scores or turn.ndcg_at_10
        turns[turn.turn] = turn  # a resumed loop writes a turn again: the last one counts
    return [turns[number] for number in sorted(turns)]


def read_text(root: Path, number: int, file: str) -> str:
    """Read the end of a text file of a run, at most 64 KiB, from the start of a line."""
    try:
        with open(root / RUNS / str(number) / file, "rb") as stream:
            start = max(stream.seek(0, os.SEEK_END) - MAX_TEXT_BYTES, 0)
            stream.seek(start)
            text = stream.read(MAX_TEXT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return text.partition("\n")[2] if start else text


def _read(path: Path, kind: type[Record], empty: Record) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        empty.problem = f"{path.name} is missing"
    except (OSError, msgspec.DecodeError) as error:
        empty.problem = f"{path.name} cannot be read: {error}"
    return empty
