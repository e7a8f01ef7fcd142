"""Documents → a dataset: read, computed once, decided, and decided again without reading.

    source ── parts ──► stages ──► signals ──► limits, duplicates, paragraphs ──► decisions, edits
                (once, on the engine)               (from stored columns, in seconds)

A dataset of the same name that was made of the same signals is decided anew from its own files: then nothing is read at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from gyral.config import Config
from gyral.curate import mixed, pipeline, readers, report, samples, store
from gyral.curate.readers import lake as in_lake
from gyral.curate.recipe import RECIPES, stages_of
from gyral.curate.settle import settle
from gyral.curate.stage import Stage
from gyral.errors import InputError, NotFound
from gyral.event.clock import now_text
from gyral.files import new_version, write_atomic
from gyral.lake import dataset as datasets
from gyral.lake import documents
from gyral.lake.arrivals import SCHEME
from gyral.lake.dataset import Dataset, Manifest, Shard
from gyral.lake.documents import ShardFiles
from gyral.lake.table import Lake
from gyral.run import Run

if TYPE_CHECKING:
    from gyral.curate.probe import Trainer


def curate(root: Path, name: str, config: Config, run: Run, trainer: Trainer | None = None) -> Dataset:
    """Make the next version of a dataset of documents, and, with a trainer, say what each family of rules is worth to it.

    Raises
    ------
    InputError : the source cannot be read, or no document is left.
    NotFound : no source is named, and there is no dataset to decide anew.
    """
    before = None if config.curate.source else _before(root, name)
    source = config.curate.source or (before.manifest.source if before else "")
    if not source:
        raise NotFound(f"`{name}` has no source", where=str(root / datasets.FOLDER), hint="name one: `--source FOLDER`")
    kind = before.manifest.kind if before else ""
    stages = stages_of(kind, config) if kind else []
    options = _options(config, before)
    if before and stages and _is_made_so(before, stages, options):
        there = zip(documents.shard_files(before), before.manifest.shards, strict=True)
        shards = [(ShardFiles(*files), shard) for files, shard in there]
        run.reads("dataset", before.name)
        run.note(f"curate   deciding anew about the {before.manifest.rows_in:,} documents of {before.name}")
    else:
        named = config.curate.recipe if config.curate.recipe in RECIPES else ""
        if source.startswith(SCHEME):
            place = in_lake.find(Lake.of(root, config), source)
        else:
            place = readers.open_place(source, Path(), run.note, kind or named, options)
        kind = place.kind
        stages = stages_of(kind, config)
        run.reads("source", source, store.recipe_digest(stages))
        shards = _computed(root, place, stages, config, run)
    manifest = Manifest(
        kind=kind,
        run=run.number,
        source=source,
        stages=[each.name for each in stages],
        recipe=store.recipe_digest(stages),
        select={"options": msgspec.to_builtins(options)},
        decisions=documents.DECISIONS,
    )
    files, kept = [each for each, _ in shards], [each for _, each in shards]
    return _decided(root, name, config, run, files, kept, stages, manifest, trainer)


def _before(root: Path, name: str) -> Dataset | None:
    try:
        found = datasets.find(root, name)
    except NotFound:
        return None
    return found if found.manifest.source else None


def _options(config: Config, before: Dataset | None) -> readers.Options:
    """How the source is read: as it is configured, or as it was read before where nothing is."""
    by = config.curate
    options = readers.Options(by.text_field, by.url_field, by.language_field, by.max_document_bytes)
    if before is not None and options == readers.Options():
        return msgspec.convert(before.manifest.select.get("options", {}), readers.Options)
    return options


def _is_made_so(before: Dataset, stages: Sequence[Stage], options: readers.Options) -> bool:
    """Whether the signals of a dataset are those that would be computed now."""
    same = before.manifest.select.get("options") == msgspec.to_builtins(options)
    return same and before.manifest.recipe == store.recipe_digest(stages)


def _computed(
    root: Path, place: readers.Place, stages: Sequence[Stage], config: Config, run: Run
) -> list[tuple[ShardFiles, Shard]]:
    """The shards of all parts, computed where they are not there yet."""
    size = sum(part.size_bytes for part in place.parts)
    run.note(f"reading {place.name} ({size:,} bytes in {len(place.parts):,} parts) as {place.kind}")
    parts = pipeline.compute(place.parts, stages, root, config.on, run)
    result = []
    for part in parts:
        folder = root / store.FOLDER / part.key
        for number, shard in enumerate(part.shards):
            text, signals = (folder / each for each in store.names(number))
            if shard.rows:
                told = Shard(text.name, shard.rows, shard.text_sha256, shard.signals_sha256)
                result.append((ShardFiles(text, signals, shard.rows), told))
    if not result:
        store.forget(root, parts)
        raise InputError(f"there is no document in `{place.name}`", hint="what is read: `gyral curate --help`")
    return result


def _decided(
    root: Path,
    name: str,
    config: Config,
    run: Run,
    files: Sequence[ShardFiles],
    shards: Sequence[Shard],
    stages: Sequence[Stage],
    manifest: Manifest,
    trainer: Trainer | None,
) -> Dataset:
    settled = settle(root, files, stages, config, run)
    decisions, table = settled.decisions, settled.edits
    manifest.rows_in = len(decisions.rule)
    manifest.rows_kept = int(decisions.is_kept.sum())
    manifest.dropped = decisions.dropped()
    manifest.rules = decisions.rules
    manifest.report = settled.told | report.of(files, decisions, table)
    if manifest.rows_kept == 0:
        listed = ", ".join(f"{reason} {count:,}" for reason, count in manifest.dropped.items())
        raise InputError(f"no document is left for `{name}`", why=listed, hint="lower a threshold, `gyral show config`")
    if config.curate.probe:
        from gyral.curate import worth

        manifest.report["probe"] = worth.measure(root, files, settled, stages, config, run)
    if trainer is not None:
        from gyral.curate import worth

        manifest.report["ablation"] = worth.measure(root, files, settled, stages, config, run, trainer)
    shown = samples.take(files, decisions, settled.digests)
    decided, packed = decisions.table(), None
    rejected = in_lake.rejected(Lake.of(root, config)) if manifest.source.startswith(SCHEME) else {}
    if mixed.is_wanted(config, rejected):
        kept = mixed.mixed(files, settled, config, rejected)
        decided = decided.append_column("copies", mixed.copies_of(kept, manifest.rows_in))
        manifest.report["mix"] = msgspec.to_builtins(kept.mixture.ledger)
        if config.tokens.write:
            packed, manifest.report["tokens"] = mixed.write_tokens(root, files, settled, kept, config, run)
    made = _published(
        root, name, files, shards, {documents.DECISIONS: decided, documents.EDITS: table}, shown, manifest, packed
    )
    _report(run, made)
    return made


def _published(
    root: Path,
    name: str,
    files: Sequence[ShardFiles],
    shards: Sequence[Shard],
    tables: Mapping[str, pa.Table],
    shown: dict[str, Any],
    manifest: Manifest,
    packed: Path | None,
) -> Dataset:
    with new_version(root / datasets.FOLDER, name) as (folder, number):
        manifest.dataset = f"{name}@{number}"
        manifest.created = now_text()
        (folder / "shards").mkdir()
        for position, (each, shard) in enumerate(zip(files, shards, strict=True)):
            for source, target in zip(each[:2], store.names(position), strict=True):
                store.link(source, folder / "shards" / target)
                manifest.size_bytes += source.stat().st_size
            manifest.shards.append(msgspec.structs.replace(shard, file=store.names(position)[0]))
        for file, table in tables.items():
            pq.write_table(table, folder / file, compression="zstd")
        if packed is not None:
            mixed.place(packed, folder)
        write_atomic(folder / documents.SAMPLES, msgspec.json.format(msgspec.json.encode(shown)))
        write_atomic(folder / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    return Dataset(root / datasets.FOLDER / manifest.dataset, manifest)


def _report(run: Run, made: Dataset) -> None:
    manifest = made.manifest
    run.writes("dataset", made.name)
    run.summarize(rows_in=manifest.rows_in, rows_kept=manifest.rows_kept, dropped=manifest.dropped)
    told = ", ".join(f"{reason} {count:,}" for reason, count in manifest.dropped.items()) or "nothing dropped"
    run.note(f"curate   {made.name}: {manifest.rows_kept:,} of {manifest.rows_in:,} documents kept; {told}")
