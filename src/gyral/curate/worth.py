"""Does it help? Every family of rules is left out in turn, and a small model tells what that does to clean text kept aside.

The variants are decided from the stored signals, so what is left out is left out from its place in the order of the rules, with
all that follows from it: a document that Gopher's rules would have dropped may still be somebody's duplicate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.curate import pipeline, readers, recipe
from gyral.curate.probe import Row, Trainer, probe
from gyral.curate.settle import Settled, families, settle
from gyral.curate.stage import Stage
from gyral.errors import InputError
from gyral.lake.documents import ShardFiles, content, edits_of
from gyral.progress import fixed
from gyral.run import Run

MAX_HELD_OUT_BYTES = 4 << 20
HELD_OUT_PART = 5
"""Of the result at most one part in so many is kept aside."""


def measure(
    root: Path,
    shards: Sequence[ShardFiles],
    settled: Settled,
    stages: Sequence[Stage],
    config: Config,
    run: Run,
    trainer: Trainer | None = None,
) -> list[dict[str, Any]]:
    """Bits per byte of the clean text for a model of the result, of what was read, and of the result without each family.

    Parameters
    ----------
    trainer : of models that are trained instead of counting n-grams. With it clean text need not be named: then a part of the
        result is kept aside, which favours rules that make everything alike.

    Raises
    ------
    InputError : the clean text cannot be read.
    """
    held_out = _held_out(config, run) if config.curate.probe else _of_the_result(shards, settled, config)
    named = families(stages, config)
    meter = run.meter("variants", len(named) + 2)
    every = np.array([rule.reason == "" or bool(rule.rule) for rule in settled.decisions.rules])[settled.decisions.rule]
    variants: dict[str, Iterator[pa.StringArray]] = {
        "result": _texts(shards, settled.decisions.is_kept, settled.edits),
        "everything": _texts(shards, every, None),
    }
    for number, family in enumerate(named):
        other = settle(root, shards, stages, config, run, without=family)
        variants[f"without {family}"] = _texts(shards, other.decisions.is_kept, other.edits)
        meter.update(number)
    rows = probe(variants, held_out, config.curate.probe_bytes, config.mix.seed, trainer)
    meter.update(len(named) + 2)
    _tell(rows, run)
    return [msgspec.to_builtins(row) for row in rows]


def _texts(shards: Sequence[ShardFiles], chosen: np.ndarray, edits: pa.Table | None) -> Iterator[pa.StringArray]:
    applied = edits_of(edits) if edits is not None else None
    return (batch.column("text") for _, batch in content(shards, chosen, applied))


def _held_out(config: Config, run: Run) -> pa.StringArray:
    """The clean text: made text of by the same stages, and by no rule."""
    place = readers.open_place(config.curate.probe, Path(), run.note, "text")
    first = [recipe.extract(config), recipe.repair(config)]
    found: list[pa.Array] = []
    size = 0
    for part in place.parts:
        for batch in readers.read(part):
            texts = pipeline.through(batch, first).column("text").drop_null()
            found.append(texts)
            size += texts.nbytes
            if size > MAX_HELD_OUT_BYTES:
                return pa.concat_arrays(found)
    if not size:
        raise InputError(
            f"there is no text in `{config.curate.probe}`", where="curate.probe", hint="name a folder of clean text"
        )
    return pa.concat_arrays(found)


def _of_the_result(shards: Sequence[ShardFiles], settled: Settled, config: Config) -> pa.StringArray:
    """Kept documents with the lowest digests, one of each, two at least; of little text no more than a part."""
    texts = {text for batch in _texts(shards, settled.decisions.is_kept, settled.edits) for text in batch.to_pylist() if text}
    found: list[str] = []
    size = 0
    most = min(config.ablate.held_out_bytes, sum(len(text.encode()) for text in texts) // HELD_OUT_PART)
    for text in sorted(texts, key=lambda text: blake2b(text.encode(), digest_size=8).digest()):
        size += len(text.encode())
        if len(found) >= 2 and size > most:
            break
        found.append(text)
    return pa.array(found, pa.string())


def _tell(rows: Sequence[Row], run: Run) -> None:
    first = rows[0]
    bounds = f"{fixed(first.low, 3)} to {fixed(first.high, 3)}"
    run.note(f"curate   {fixed(first.bits_per_byte, 3)} bits per byte of the clean text ({bounds})")
    for row in rows[1:]:
        sure = "" if row.change_low <= 0 <= row.change_high else ", sure"
        run.note(f"curate     {row.name}: {row.change:+.4f} ({row.change_low:+.4f} to {row.change_high:+.4f}{sure})")
