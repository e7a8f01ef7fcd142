"""Events of documents that have just come in → texts to learn from: what `curate` does to each document by itself.

A training that follows the lake takes what is new a range at a time, so what compares a document with all others has nothing to
compare it with. What is left of the recipe holds: text is made of bytes and repaired, the limits of all stages drop it, what
they cut is cut, and of copies within a range one stays. Near-duplicates, repeated paragraphs and mixing are not looked at.

The hook `texts` leads here, so that `train` need not know of this room. It is pure: equal rows and settings give equal texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from gyral.config import Config
from gyral.curate import decide, edits, pipeline, store
from gyral.curate.readers.lake import rows_of_event
from gyral.curate.readers.rows import Row, in_batches
from gyral.curate.recipe import stages_of
from gyral.curate.stage import Stage
from gyral.lake import documents
from gyral.lake.documents import ShardFiles

COMPARING = ("minhash", "paragraphs")
"""Stages whose signals are for comparing documents with each other."""
_warm: set[str] = set()


def texts(rows: pa.Table, config: Config, note: Callable[[str], None]) -> list[str]:
    """Texts of documents that are kept, in order.

    Parameters
    ----------
    rows : events of the lake: `object`, `language`, `props`. Pictures have no text here.
    note : is told while kernels are compiled, once on a machine.

    Raises
    ------
    ConfigError : a stage or a rule that is configured cannot be used.
    """
    stages = [stage for stage in stages_of("text", config) if stage.name not in COMPARING]
    if (recipe := store.recipe_digest(stages)) not in _warm:
        with pipeline.told_of_kernels(note):
            pipeline.warm(stages)
        _warm.add(recipe)
    batches = [pipeline.through(batch, stages) for batch in in_batches(_documents(rows))]
    if not batches:
        return []
    table = pa.concat_tables([pa.Table.from_batches([batch]) for batch in batches], promote_options="default")
    with tempfile.TemporaryDirectory(prefix="gyral-") as folder:
        files = ShardFiles(Path(folder, store.TEXT), Path(folder, store.SIGNALS), table.num_rows)
        content = [name for name in store.CONTENT if name in table.schema.names]
        files.text.write_bytes(store.parquet(table.select(content)))
        files.signals.write_bytes(store.parquet(table.drop_columns(content)))
        return _kept(files, stages, config)


def _kept(files: ShardFiles, stages: list[Stage], config: Config) -> list[str]:
    decisions = decide.by_limits([files], decide.limits_of(stages, config))
    if config.dedup.exact:
        decide.exact([files], decisions)
    cuts = [cut for stage in stages for cut in stage.cuts(config)]
    ranges = edits.Ranges()
    edits.of_stages([files], decisions, cuts, ranges)
    table = ranges.table(cuts, decisions.is_kept)
    read = documents.content([files], decisions.is_kept, documents.edits_of(table))
    return [text for _, batch in read for text in batch.column("text").to_pylist() if text]


def _documents(rows: pa.Table) -> Iterator[Row]:
    columns = (rows[name].to_pylist() for name in ("object", "language", "props"))
    for name, language, props in zip(*columns, strict=True):
        yield from (row for row in rows_of_event(name or "", language, props) if row.media != "image")
