"""The folder of a live model: the journal, the shards' logs of changes, and how far followers may read them.

live/<name>/journal.jsonl    steps of the learner (`gyral.train.online`)
            shards/shard<n>  base and cuts of each shard (`gyral.params.deltas`)
            published.json   up to which cut of each shard a follower may read
            quiet.json       steps whose gradients are not learned: what a roll-back left out

A version is published by naming cuts, and taken back by never naming them: whoever starts on the folder (again) first removes
cuts that were not named. So nobody ever served what was refused, and to go back is to start anew.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gyral.errors import InputError
from gyral.files import fsync_path, write_atomic
from gyral.params.chain import NAME, numbers

FOLDER = "live"
SHARDS = "shards"
PUBLISHED = "published.json"
QUIET = "quiet.json"


class Published(msgspec.Struct):
    """What followers may read.

    Attributes
    ----------
    version : counts publications.
    cuts : folder of a shard → its last cut.
    step : the last step that is in them for certain.
    hour : of event time, of the newest event in them.
    refused : versions that were not published, so far.
    """

    version: int = 0
    cuts: dict[str, int] = {}
    step: int = 0
    hour: int = 0
    refused: int = 0


def folder_of(root: Path, name: str) -> Path:
    """Of a live model."""
    return root / FOLDER / name


def read_published(folder: Path) -> Published:
    """What was published last; nothing of a folder that is new.

    Raises
    ------
    InputError : the file is none.
    """
    try:
        return msgspec.json.decode((folder / PUBLISHED).read_bytes(), type=Published)
    except FileNotFoundError:
        return Published()
    except msgspec.DecodeError as error:
        hint = "remove the folder to learn anew from the log"
        raise InputError("what is published cannot be read", where=str(folder), why=str(error), hint=hint) from None


def publish(folder: Path, published: Published) -> None:
    """Followers may read this; on the disk when it returns."""
    write_atomic(folder / PUBLISHED, msgspec.json.encode(published))


def quiet_steps(folder: Path) -> list[tuple[int, int]]:
    """Ranges (first, last) of steps whose gradients are not learned."""
    try:
        return msgspec.json.decode((folder / QUIET).read_bytes(), type=list[tuple[int, int]])
    except FileNotFoundError:
        return []


def add_quiet(folder: Path, first: int, last: int) -> None:
    """Leave out one more range; durable when it returns."""
    write_atomic(folder / QUIET, msgspec.json.encode([*quiet_steps(folder), (first, last)]))


def newest_cuts(folder: Path) -> dict[str, int]:
    """Folder of a shard → the last file that it has."""
    found = {}
    for shard in sorted((folder / SHARDS).glob("shard*")) if (folder / SHARDS).is_dir() else ():
        names = [path.name for path in shard.iterdir()] if shard.is_dir() else []
        if any(NAME.fullmatch(name) for name in names):
            found[shard.name] = max(numbers(names, "cut") + numbers(names, "base"))
    return found


def remove_unpublished(folder: Path) -> int:
    """Remove files of shards that nobody may read, newest first, so that no gap is ever left; how many."""
    published = read_published(folder)
    removed = 0
    for shard in newest_cuts(folder):
        last, path = published.cuts.get(shard, 0), folder / SHARDS / shard
        found = [(int(match[2]), match[0]) for match in map(NAME.fullmatch, (each.name for each in path.iterdir())) if match]
        for number, name in sorted(found, reverse=True):
            if number > last:
                (path / name).unlink()
                removed += 1
        fsync_path(path)
    return removed
