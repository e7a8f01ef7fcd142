"""Take somebody out of a live model's tables, whoever learns or answers meanwhile.

Their two rows are removed through a shard that claims the folder, as one that was started again does; then the log is folded
and the files that had the rows are gone. A learner that runs loses its claim, dies, and goes on from what is published here. A
server follows: its rows go at the next look. What objects learned from them stays learned.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from gyral.model.live import places, tables
from gyral.params.chain import Chain, Folder
from gyral.params.deltas import compact
from gyral.params.serve import Job, made
from gyral.params.strings import key_of


def erase(folder: Path, subject: str) -> bool:
    """Remove a subject's rows from the tables of a live model; whether there were any.

    Raises
    ------
    GyralError : the tables cannot be read, or written.
    """
    shards = sorted((folder / places.SHARDS).glob("shard*")) if (folder / places.SHARDS).is_dir() else []
    key = np.array([key_of(subject)])
    places.remove_unpublished(folder)
    was_there = False
    for path in shards:
        with Chain(Folder(path)) as chain:
            specs = list(chain.specs.values())
        if not specs:
            continue
        shard = made(Job(int(path.name.removeprefix("shard")), len(shards), specs, folder=str(path)))
        try:
            for held in shard.tables:
                if held.name in (tables.SUBJECT, tables.PAST) and held.table.pull(key)[1].any():
                    held.table.remove(key)
                    was_there = True
        finally:
            shard.close()
        compact(path, keep_s=0, keep_bytes=0)
    if was_there:
        published = places.read_published(folder)
        cuts = places.newest_cuts(folder)
        places.publish(folder, msgspec.structs.replace(published, version=published.version + 1, cuts=cuts))
    return was_there
