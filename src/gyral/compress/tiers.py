"""`gyral compress MODEL --tiers phone,laptop,server`: many variants tried, one chosen for each class of devices.

Every variant is made as it would be published, in a folder of its own: its quality by the twin that has not learned the text,
pictures or events it is asked about, its bytes on disk, and by a process of its own what it takes in memory and how long it
answers (`gyral.compress.trial`). All that was tried stands in the card of the model and of what is published, the refused too.
Memory and time are those of this machine: what a phone needs is told by its tier's memory alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from gyral.compress import front
from gyral.compress.cascade import calibrated, trained
from gyral.compress.quantize import Source, further, opened, published, relative_loss, variant_name
from gyral.compress.trial import BATCHES, Tried, trying
from gyral.config import Config
from gyral.config.sections import DeviceTier
from gyral.errors import GyralError, QualityError, UsageError, did_you_mean
from gyral.files import last_version, staging_folder
from gyral.model import card as cards
from gyral.model import inputs as model_inputs
from gyral.model.card import Card, Variant
from gyral.model.tiers import tiers
from gyral.run import Run

ROUNDS = 3
REFUSED_ABOVE = "loses {loss:.2f} %, more than {limit:.2f}"


class Made(NamedTuple):
    """A variant in its folder, with what is known before it is timed."""

    row: Variant
    folder: Path
    quality: float


def compress_for_tiers(root: Path, name: str, config: Config, run: Run) -> Card:
    """Try variants of a model, publish one for each tier, and write what was measured into its card.

    Returns
    -------
    The model's card; `variants` says what was tried, what was chosen for whom and what that is called.

    Raises
    ------
    UsageError : a tier is not known, or the family has nothing to try.
    QualityError : no variant is within the limit and fits one of the tiers; the table is in the card, what is for others is
        published.
    """
    wanted = wanted_tiers(config)
    max_loss = config.compress.max_loss
    source = opened(root, name, run)
    card, metric = source.card, source.card.metric
    targets = config.compress.tried or list(getattr(source.family, "tried", ()))
    if not targets:
        raise UsageError(f"a {source.family.name} has no variants that could be tried", hint="name one: `--to int8`")
    meter = run.meter("variants", len(targets) + 2)
    before = source.twin.measure(source.twin.weights)
    with ExitStack() as stack:
        made: dict[str, Made] = {"": Made(_row("", source.folder, before, 0.0, ""), source.folder, before)}
        firsts = {each: trained(root, each, source, before) for each in config.compress.first}
        made |= {each: Made(row, folder, row.quality or 0.0) for each, (row, folder) in firsts.items()}
        failed: list[Variant] = []
        for done, to in enumerate(targets, 1):
            meter.update(done)
            try:
                made[to] = _made(source, to, before, max_loss, _folder(stack, root, card, to))
            except GyralError as error:
                failed.append(Variant(to, why=f"cannot be made: {error.what}"))
        rows = [*_timed([(each.row, each.folder) for each in made.values()]), *failed]
        rows = [
            msgspec.structs.replace(row, is_front=is_front)
            for row, is_front in zip(rows, front.on_front([front.point_of(row, metric) for row in rows]), strict=True)
        ]
        own = [row for row in rows if row.to not in firsts]
        choice = {tier: front.chosen(device, own, metric) for tier, device in wanted.items()}
        rows = [
            msgspec.structs.replace(
                row, tiers=(mine := [tier for tier, one in choice.items() if one is not None and one.to == row.to]),
                model=_name_of(card, row.to, root) if mine else row.model,
            )
            for row in rows
        ]  # fmt: skip
        folders = {to: each.folder for to, each in made.items()}
        rows = card.variants = calibrated(source.twin, rows, folders, config.compress.max_regret)
        for row in rows:
            if row.tiers and row.to:
                weights = cards.read_weights(made[row.to].folder)
                published(root, source, row.to, weights, (before, made[row.to].quality), max_loss, run)
        cards.write_card(source.folder, card)
        meter.update(len(targets) + 2)
    run.summarize(tiers={tier: one.to or "as it is" if one else "none" for tier, one in choice.items()}, tried=len(rows))
    run.note(f"compress {card.model}: {len(rows)} variants tried, {sum(row.is_front for row in rows)} on the front")
    lacking = [tier for tier, one in choice.items() if one is None]
    if lacking:
        raise QualityError(
            f"no variant of `{card.model}` is for {', '.join(f'`{each}`' for each in lacking)}",
            why="none within the limit of loss fits the memory",
            hint=f"see what was tried: `gyral show {card.model}`, and allow more with `--max-loss`",
        )
    return card


def wanted_tiers(config: Config) -> dict[str, DeviceTier]:
    """By name, in the order asked for.

    Raises
    ------
    UsageError : one is not known.
    """
    known = tiers(config.serve.tiers)
    for each in config.compress.tiers:
        if each not in known:
            raise UsageError(f"there is no tier `{each}`", where="compress.tiers", hint=did_you_mean(each, known))
    return {each: known[each] for each in dict.fromkeys(config.compress.tiers)}


def _made(source: Source, to: str, before: float, max_loss: float, folder: Path) -> Made:
    smaller, after = source.made(to)
    cards.write_weights(folder, smaller)
    inputs, card, files = further(source.folder, source.card)
    if inputs is not None:
        model_inputs.save(inputs, folder)
    for name, body in files.items():
        (folder / name).write_bytes(body)
    cards.write_card(folder, card)
    loss = relative_loss(card.metric, before, after)
    why = REFUSED_ABOVE.format(loss=100 * loss, limit=100 * max_loss) if loss > max_loss else ""
    return Made(_row(to, folder, after, loss, why), folder, after)


def _row(to: str, folder: Path, quality: float, loss: float, why: str) -> Variant:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name != "card.json")
    return Variant(to, round(quality, 6), round(loss, 6), size, why=why)


def _folder(stack: ExitStack, root: Path, card: Card, to: str) -> Path:
    return stack.enter_context(staging_folder(root / cards.FOLDER, f"{variant_name(card, to)}-tried"))


def _name_of(card: Card, to: str, root: Path) -> str:
    """What a variant is published as: its next version."""
    name = variant_name(card, to)
    return f"{name}@{last_version(root / cards.FOLDER, name) + 1}" if to else card.model


def _timed(variants: Sequence[tuple[Variant, Path]]) -> list[Variant]:
    """With memory and times; rounds of all in turn."""
    with ExitStack() as stack:
        processes: list[Tried] = [stack.enter_context(trying(folder)) for _, folder in variants]
        rounds = [[process.round() for process in processes] for _ in range(ROUNDS)]
        found = []
        for at, (row, _) in enumerate(variants):
            mine = [each[at] for each in rounds]
            calls = {str(size): 1e3 * np.concatenate([each.calls[str(size)] for each in mine]) for size in BATCHES}
            seconds = sum(each.units_s for each in mine)
            found.append(
                msgspec.structs.replace(
                    row,
                    memory_bytes=processes[at].loaded.memory_bytes,
                    p50_ms={size: round(float(np.percentile(each, 50)), 4) for size, each in calls.items()},
                    p99_ms={size: round(float(np.percentile(each, 99)), 4) for size, each in calls.items()},
                    per_s=round(sum(each.units for each in mine) / max(seconds, 1e-9), 2),
                    unit=processes[at].loaded.unit,
                )
            )
    return found
