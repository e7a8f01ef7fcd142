"""Parts → signals: each part is read, goes through the stages and is stored, wherever the engine runs it.

The unit of work is a part. What a worker makes of it depends on the part and the recipe alone and is written under a name made
of both, so it may run twice, on any machine that sees the same folders, and a run that was killed finds what is whole: a part
that is done is not read again, and of one that is not, whole shards are not computed again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from gyral.curate import readers, store
from gyral.curate.readers import Part
from gyral.curate.stage import DOCUMENT, Stage
from gyral.curate.store import Stored
from gyral.engine.base import connect
from gyral.progress import Meter, duration
from gyral.run import Run

SHARD_BYTES = 32 << 20
"""Bytes of `raw` and `text` that make a shard full."""
SHARD_ROWS = 65_536
PROCESSES_FROM_BYTES = 64 << 20
"""More bytes are worth the start of processes (2 s each): what makes text of HTML holds the interpreter's lock."""
NOTE_AFTER_S, NOTE_EVERY_S = 2.0, 9.0


class Job(NamedTuple):
    """A part and the folder of its signals."""

    part: Part
    folder: Path


def compute(parts: Sequence[Part], stages: Sequence[Stage], root: Path, on: str, run: Run) -> list[Stored]:
    """Make the signals of all parts that have none yet.

    Returns
    -------
    The parts in the order given, whatever the engine and its number of workers.
    """
    recipe = store.recipe_digest(stages)
    jobs = [Job(part, root / store.FOLDER / store.key_of(part, recipe)) for part in parts]
    done = {job.folder: found for job in jobs if (found := store.find(job.folder)) is not None}
    waiting = [job for job in jobs if job.folder not in done]
    if done:
        run.note(f"curate   {len(done):,} of {len(parts):,} parts are there already")
    if waiting:
        with told_of_kernels(run.note):
            warm(stages)
        finished = sum(job.part.size_bytes for job in jobs if job.folder in done)
        meter = run.meter("bytes", sum(part.size_bytes for part in parts))
        with _beating(meter, [job.folder for job in waiting]):
            for job, made in zip(waiting, _map(waiting, stages, _engine_for(on, waiting)), strict=True):
                done[job.folder] = made
                finished += job.part.size_bytes
                meter.update(finished)
    return [done[job.folder] for job in jobs]


def process(job: Job, stages: Sequence[Stage]) -> Stored:
    """Read a part, apply the stages, store the shards: what a worker does."""
    found = store.find(job.folder)
    if found is not None:
        return found
    shards = (_through(batches, stages) for batches in _in_shards(readers.read(job.part)))
    return store.write(job.folder, job.folder.name, shards)


def through(batch: pa.RecordBatch, stages: Sequence[Stage]) -> pa.RecordBatch:
    """One batch through all stages; bytes that text was made of are let go."""
    for stage in stages:
        batch = stage(batch)
    if "image" not in batch.column("media").unique().to_pylist():
        batch = batch.set_column(batch.schema.get_field_index("raw"), "raw", pa.nulls(batch.num_rows, pa.binary()))
    return batch


def warm(stages: Sequence[Stage]) -> None:
    """Run every stage once, so that kernels are compiled, and in numba's cache, before workers want them."""
    line = "Some words to ann@example.org from 9.9.9.9, +49 30 1234567 or 4111 1111 1111 1111.\n\nEine Zeile: ж, 日本語, ไทย.\n"
    row = {"file": "a", "offset": -1, "media": "text", "text": line * 9}
    through(pa.RecordBatch.from_pylist([{name: row.get(name) for name in DOCUMENT.names}], DOCUMENT), stages)


def _through(batches: Sequence[pa.RecordBatch], stages: Sequence[Stage]) -> Iterator[pa.RecordBatch]:
    return (through(batch, stages) for batch in batches)


def _in_shards(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches in groups of about `SHARD_BYTES`; one empty group where a part holds nothing."""
    group: list[pa.RecordBatch] = []
    size = rows = num_groups = 0
    for batch in batches:
        group.append(batch)
        size += batch.column("raw").nbytes + batch.column("text").nbytes
        rows += batch.num_rows
        if size >= SHARD_BYTES or rows >= SHARD_ROWS:
            yield group
            group, size, rows, num_groups = [], 0, 0, num_groups + 1
    if group or not num_groups:
        yield group or [pa.RecordBatch.from_pylist([], DOCUMENT)]


def _map(jobs: Sequence[Job], stages: Sequence[Stage], on: str) -> Iterator[Stored]:
    engine = connect(on)
    try:
        yield from engine.map(partial(process, stages=tuple(stages)), jobs)
    finally:
        engine.close()


def _engine_for(on: str, jobs: Sequence[Job]) -> str:
    """Threads for little, processes for more, unless somebody chose."""
    size = sum(job.part.size_bytes for job in jobs)
    return f"local://processes={min(connect(on).workers, len(jobs))}" if on == "local" and size > PROCESSES_FROM_BYTES else on


@contextmanager
def told_of_kernels(note: Callable[[str], None]) -> Iterator[None]:
    """Say so while kernels are being compiled, which happens once on a machine."""
    began = time.monotonic()

    def tell(ended: threading.Event) -> None:
        wait_s = NOTE_AFTER_S
        while not ended.wait(wait_s):
            took = duration(time.monotonic() - began)
            note(f"curate   compiling kernels into numba's cache, once on this machine: {took}")
            wait_s = NOTE_EVERY_S

    with _meanwhile(tell):
        yield


@contextmanager
def _beating(meter: Meter, folders: Sequence[Path]) -> Iterator[None]:
    """Keep the progress alive while large parts take long: what was stored of them so far is counted."""

    def beat(ended: threading.Event) -> None:
        while not ended.wait(1.0):
            if time.monotonic() - meter.last_update > 5.0:
                shards = sum(1 for folder in folders for _ in folder.glob(f"*.{store.SIGNALS}"))
                meter.update(meter.record.done, shards=shards)

    with _meanwhile(beat):
        yield


@contextmanager
def _meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread beside the block; the event tells it that the block has ended."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
