"""A model written for other programs: beside its weights, or where it is asked for, and compared before it is published.

The same rows go through the model and through the written files, opened by a reader of the format. Where an output differs by
more than the format's tolerance, or text is foretold worse than `compress.max_loss` allows, nothing is published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gyral import plugins
from gyral.compress.export.base import Format, Source
from gyral.config import Config
from gyral.errors import InputError, QualityError, UsageError
from gyral.event.clock import now_text
from gyral.files import make_folder, publish, staging_folder, write_atomic
from gyral.model import card as cards
from gyral.model import exported
from gyral.model.exported import Comparison, Exported
from gyral.progress import number
from gyral.run import Run

if TYPE_CHECKING:
    from gyral.compress.export.base import Reading
    from gyral.model.programs import Program


def export(root: Path, name: str, config: Config, run: Run, out: Path | None = None) -> tuple[Exported, Path]:
    """Write a model in the format `compress.to`.

    Parameters
    ----------
    out : folder to make; None: `exports/FORMAT` of the model's folder.

    Returns
    -------
    its manifest, and the folder it is in.

    Raises
    ------
    NotFound : no such model.
    UsageError : the folder is there already, or the format is not for this family.
    InputError : the model is damaged, or no function of tensors.
    QualityError : the export answers otherwise than the model; nothing is published.
    """
    to = config.compress.to
    writer: Format = plugins.find("format", to)
    folder = cards.find(root, name)
    card = cards.read_card(folder)
    run.reads("model", card.model)
    target = out if out is not None else folder / exported.FOLDER / to
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        why = f"it holds {'an export already' if (target / exported.MANIFEST).exists() else 'something else'}"
        raise UsageError(f"`{target}` is not empty", why=why, hint="remove it, or name another folder: `--out FOLDER`")
    from gyral.model.programs import program_of

    meter = run.meter("steps", 3)
    source = Source(root, folder, card, program_of(root, folder))
    meter.update(1)
    with _new(target) as staging:
        notes = writer.write(source, staging)
        if card.compression is not None:
            notes.append(f"matrices of {card.compression.to} were written, and are compared, as the numbers they stand for")
        meter.update(2)
        compared = compare(source.program, writer.read(source.program, staging))
        _refuse(to, card.model, compared, writer.tolerance, config.compress.max_loss)
        files = exported.files_of(staging)
        program = source.program
        made = Exported(
            format=to,
            model=card.model,
            family=card.family,
            run=run.number,
            created=now_text(),
            size_bytes=sum(each.size_bytes for each in files),
            files=files,
            compared=compared,
            inputs=list(program.inputs),
            outputs=[program.output],
            versions=dict(writer.versions()),
            notes=notes,
        )
        write_atomic(staging / exported.MANIFEST, exported.encode(made))
    meter.update(3)
    run.writes("export", str(target))
    run.summarize(to=to, size_bytes=made.size_bytes, max_abs_diff=compared.max_abs_diff, same_best=compared.same_best)
    run.note(told(made, target))
    return made, target


def compare(program: Program, reading: Reading) -> Comparison:
    """A model and its export, asked the same."""
    from gyral.model.programs import nats_of

    worst = scale = 0.0
    same = answers = rows = 0
    before, after, num = 0.0, 0.0, 0
    for sample, found in zip(program.samples, reading.answers, strict=True):
        expected = program.run(sample)
        if found.shape != expected.shape:
            raise InputError("the export gives other outputs", why=f"{found.shape} where the model gives {expected.shape}")
        difference = np.abs(found - expected)
        worst = max(worst, float(difference.max()) if np.isfinite(difference).all() else float("inf"))
        scale = max(scale, float(np.abs(expected).max()))
        same += int((found.argmax(-1) == expected.argmax(-1)).sum())
        answers += found[..., 0].size
        rows += len(sample[0])
        if program.foretells:
            (one, count), (other, _) = nats_of(sample[0], expected), nats_of(sample[0], found)
            before, after, num = before + one, after + other, num + count
    losses = (round(before / num, 6), round(after / num, 6)) if num else (None, None)
    return Comparison(program.on, reading.by, rows, worst, scale, round(same / answers, 6), *losses)


def told(made: Exported, folder: Path) -> str:
    """An export in one line."""
    compared = made.compared
    loss = "" if compared.loss_before is None else f", {compared.loss_before:.4f} → {compared.loss_after:.4f} nats a token"
    return (
        f"export {made.model} → {folder}: {number(made.size_bytes / 1e6)} MB, outputs differ by {compared.max_abs_diff:.2g} "
        f"at most (of {compared.scale:.3g}), best the same in {100 * compared.same_best:.1f} %{loss}, by {compared.by}"
    )


def _refuse(to: str, model: str, compared: Comparison, tolerance: float, max_loss: float) -> None:
    if not compared.relative_diff <= tolerance:
        share = compared.relative_diff
        why = f"outputs differ by {compared.max_abs_diff:.3g}, {share:.2g} of the largest; {tolerance:.2g} is allowed"
        hint = "take a format of more bits; of one in float32 this is a fault: please report it with the model's card"
        raise QualityError(f"{to} answers otherwise than the model", where=model, why=why, hint=hint)
    if compared.relative_loss > max_loss:
        raise QualityError(
            f"{to} would lose {100 * compared.relative_loss:.2f} % "
            f"({compared.loss_before:.4f} → {compared.loss_after:.4f} nats a token)",
            where=model,
            why=f"the limit is {100 * max_loss:.2f} %",
            hint=f"allow it with `--max-loss {compared.relative_loss + 0.001:.3f}`, or take a format of more bits",
        )


@contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A folder to fill that gets its name when all is well; an empty one there gives way."""
    make_folder(target.parent)
    with staging_folder(target.parent, target.name) as staging:
        yield staging
        try:
            publish(staging, target)
        except FileExistsError:
            raise UsageError(f"another process made `{target}` first", hint="name another folder: `--out FOLDER`") from None
