"""Checkpoints as they lie on the disk: found, verified, kept by count, and taken over by the run that goes on.

    runs/<n>/checkpoints/<step>/manifest.json        what it is of, and size and sha256 of every other file
                                rank0.safetensors    chunks of tensors; where each belongs is in the file's header

A folder gets its name last, after everything in it is on the disk, so a save that was killed leaves nothing that looks like a
checkpoint. Whether the bytes are still those that were written is known only by reading them: `newest` does (one core hashes
1–2 GB/s), goes on to the next older one where they are not, and says so. Nothing is unpickled and torch is not loaded here.

A resumed run gets a number of its own, and begins by taking over: the checkpoint (its files linked, not copied) and the ledger
up to that step. So its folder tells the whole story of its model, each step once; what the run before did after the checkpoint
stays in *its* ledger and is learned anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gyral.errors import GyralError, InputError
from gyral.files import fsync_path, make_folder, write_atomic
from gyral.train import ranges

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
LEDGER = "ledger.jsonl"
CHOSEN = "budget.json"
"""Of the sizes of a run that a budget chose (`gyral.train.budget`)."""
FORMAT = 1
BLOCK_BYTES = 4 << 20


class Pins(msgspec.Struct, frozen=True):
    """What a run must share with the one that it goes on from.

    Attributes
    ----------
    dataset, dataset_sha256 : name with version, and the digest of its manifest.
    steps : of the whole run; the schedule of the rate ends there.
    learned : settings by dotted name that change what is learned.
    """

    dataset: str = ""
    dataset_sha256: str = ""
    steps: int = 0
    learned: dict[str, Any] = {}


class FileMark(msgspec.Struct, frozen=True):
    """Size and digest of one file."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What `manifest.json` holds.

    Attributes
    ----------
    step : how many are done; with `order` it is the position in the data.
    order : `num_rows`, `batch` and `seed` of the stream of examples.
    skipped : steps in a row that were left out before it.
    mesh : ranks along each axis that wrote it; another may read it.
    numbers : parts of the state that are no tensors, by the name they would have.
    aliases : parameter → the one that it is another name of.
    """

    step: int
    order: dict[str, int]
    skipped: int
    mesh: dict[str, int]
    pins: Pins
    files: dict[str, FileMark]
    versions: dict[str, str] = {}
    numbers: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    format: int = FORMAT


class Saved(NamedTuple):
    """One checkpoint."""

    folder: Path
    manifest: Manifest


def steps_of(folder: Path) -> list[int]:
    """Steps of the checkpoints of a run's folder, ascending; whether they are sound is not looked at."""
    place = folder / FOLDER
    return sorted(int(name) for name in (os.listdir(place) if place.is_dir() else []) if re.fullmatch(r"[0-9]+", name))


def opened(folder: Path, step: int) -> Saved:
    """Open a checkpoint; its files are not looked at.

    Raises
    ------
    InputError : it is of a newer gyral, or its manifest is damaged.
    """
    place = folder / FOLDER / str(step)
    try:
        manifest = msgspec.json.decode((place / MANIFEST).read_bytes(), type=Manifest)
        if manifest.format > FORMAT or manifest.step != step:
            raise ValueError(f"it is of format {manifest.format} and step {manifest.step}")
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise _damaged(step, f"its manifest cannot be read: {error}", place) from None
    return Saved(place, manifest)


def read(folder: Path, step: int) -> Saved:
    """Open a checkpoint and compare every file with its digest.

    Raises
    ------
    InputError : it is damaged, or of a newer gyral.
    """
    place, manifest = opened(folder, step)
    for name, mark in manifest.files.items():
        path = place / name
        size = path.stat().st_size if path.exists() else -1
        if size != mark.size_bytes:
            why = f"`{name}` has {size:,} bytes instead of {mark.size_bytes:,}" if size >= 0 else f"`{name}` is missing"
            raise _damaged(step, why, place)
        if digest_of(path) != mark.sha256:
            raise _damaged(step, f"the bytes of `{name}` are not those that were written", place)
    return Saved(place, manifest)


def newest(folder: Path, note: Callable[[str], None] = lambda _: None) -> Saved | None:
    """The newest checkpoint of a run's folder that is sound; None: there is none.

    Parameters
    ----------
    note : is told of each that is not.
    """
    for step in reversed(steps_of(folder)):
        try:
            return read(folder, step)
        except InputError as error:
            note(f"{error.what}: {error.why}; looking for an older one")
    return None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, if the newest of all is sound; if it is not, delete it alone."""
    steps = steps_of(folder)
    try:
        read(folder, steps[-1])
    except InputError:
        steps = [steps[-1]]
        keep = 0
    for step in steps[: len(steps) - keep]:
        place = folder / FOLDER / str(step)
        going = place.with_name(f".{step}.going")
        shutil.rmtree(going, ignore_errors=True)
        os.rename(place, going)  # half a checkpoint must not look like one
        shutil.rmtree(going, ignore_errors=True)


def take_over(source: Saved, into: Path) -> None:
    """Make a checkpoint of another run, and that run's ledger up to it, those of the run of a folder.

    Raises
    ------
    InputError : the ledger does not have each step before the checkpoint once.
    """
    step = source.manifest.step
    lines = ledger_until(source.folder.parent.parent / LEDGER, step)
    place = into / FOLDER / str(step)
    staging = place.with_name(f".{step}.taken.tmp")
    make_folder(staging)
    for name in [*source.manifest.files, MANIFEST]:
        try:
            os.link(source.folder / name, staging / name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source.folder / name, staging / name)
            fsync_path(staging / name)
    fsync_path(staging)
    write_atomic(into / LEDGER, b"".join(lines))
    if streamed := ranges.taken_over(source.folder.parent.parent):
        write_atomic(into / ranges.FILE, streamed)
    chosen = source.folder.parent.parent / CHOSEN
    if chosen.exists():
        write_atomic(into / CHOSEN, chosen.read_bytes())
    os.rename(staging, place)
    fsync_path(place.parent)


def ledger_until(path: Path, step: int) -> list[bytes]:
    """Lines of a ledger for the steps before one.

    Raises
    ------
    InputError : one is missing or there twice.
    """

    class Line(msgspec.Struct):
        step: int

    lines: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            number = msgspec.json.decode(line, type=Line).step
        except msgspec.MsgspecError:  # torn by a kill: the last one
            break
        if number >= step:
            break
        if number != len(lines) or not line.endswith(b"\n"):
            break
        lines.append(line)
    if len(lines) != step:
        why = f"step {len(lines)} is not where it should be"
        raise InputError("the ledger does not have each step once", why=why, where=str(path), hint="train afresh")
    return lines


def digest_of(path: Path) -> str:
    """Sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refused(what: str, why: str, place: Path) -> GyralError:
    """A checkpoint that cannot be gone on from."""
    return InputError(what, why=why, where=str(place), hint="train afresh without `--resume`")


def _damaged(step: int, why: str, place: Path) -> InputError:
    return InputError(f"the checkpoint of step {step:,} is damaged", why=why, where=str(place))
