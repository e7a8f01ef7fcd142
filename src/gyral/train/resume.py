"""Going on with an interrupted training: whether it is the same one, and what is taken over from it.

What changes what is learned must be as it was; what only changes who computes it, or what is looked at meanwhile, may be
another. So the settings that are free are listed, and a setting that nobody thought of must be the same.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from gyral.config import Config, describe
from gyral.errors import ConflictError, NotFound, UsageError
from gyral.lake.arrivals import Arrivals
from gyral.lake.dataset import Dataset
from gyral.lake.foreign import Foreign
from gyral.run import FOLDER as RUNS
from gyral.run import Run, read_lineage
from gyral.train import saved
from gyral.train.readers import folder
from gyral.train.saved import Pins

FREE = (
    "train.parallel", "train.microbatch", "train.evaluate_every", "train.checkpoint_every", "train.keep_checkpoints",
    "train.elastic", "train.stream", "train.compile", "train.recompute", "train.profile", "train.schedule", "train.sharding",
    "train.tables", "train.server.at", "train.server.secret", "train.server.lease_s", "train.server.cut_s",
)  # fmt: skip
"""Settings, or sections of them, that a run may go on with in another way: they change the order of additions at most."""


def learned(config: Config) -> dict[str, Any]:
    """Settings by dotted name that change what is learned: those of `train` and of the family, without those that are free."""
    told = {key: value for key, value, _ in describe(config) if is_about(key.partition(".")[0], config.train.family)}
    if config.train.steps:  # else the steps follow from it
        told.pop("train.budget", None)
    return {key: value for key, value in told.items() if not any(key == each or key.startswith(each + ".") for each in FREE)}


def is_about(section: str, family: str) -> bool:
    """Whether a section says how a family learns: `train`, `lm`, `vision`; `recommend` of `recommender`."""
    return section == "train" or (bool(section) and family.startswith(section))


def pins_of(data: Dataset, config: Config, steps: int) -> Pins:
    """What a checkpoint keeps of the run that makes it."""
    return Pins(data.name, digest_of(data), steps, learned(config))


def digest_of(data: Dataset) -> str:
    """Digest of the manifest of a dataset: another one, other rows."""
    if isinstance(data, Foreign | Arrivals):
        return data.digest
    path = data.folder / "manifest.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def settings_of(root: Path, number: int) -> dict[str, Any]:
    """Settings of a run by dotted name, as far as they are about training: what `--set` of a resumed run stands above.

    Raises
    ------
    NotFound : there is no such run, or it was no training.
    """
    if read_lineage(root, number).verb != "train":
        raise NotFound(f"run {number} is no training", hint="`gyral show` lists the runs")
    tree = tomllib.loads((root / RUNS / str(number) / "config.toml").read_text(encoding="utf-8"))
    family = str(tree.get("train", {}).get("family", ""))
    sections = [(name, found) for name, found in tree.items() if isinstance(found, dict) and is_about(name, family)]
    return {f"{name}.{key}": value for name, found in sections for key, value in found.items()}


def adopt(root: Path, number: int, dataset: str, config: Config, run: Run) -> str:
    """Take over the newest sound checkpoint of a run, and its ledger up to there, into the folder of another.

    Parameters
    ----------
    dataset : that was asked for; empty: that of the run.

    Returns
    -------
    The dataset to go on with, by name and version.

    Raises
    ------
    NotFound : no checkpoint can be used.  ConflictError : the run still goes on.
    UsageError : it was another training: other data, or settings that change what is learned.
    """
    if read_lineage(root, number).status == "running":
        raise ConflictError(f"run {number} still goes on", hint="stop it first, or wait for it")
    place = root / RUNS / str(number)
    found = saved.newest(place, run.note)
    if found is None:
        hint = "train afresh without `--resume`"
        raise NotFound(f"run {number} has no checkpoint that can be used", where=str(place / saved.FOLDER), hint=hint)
    pins = found.manifest.pins
    _check_dataset(root, number, dataset, pins)
    now = learned(config)
    differ = [key for key, value in pins.learned.items() if key in now and now[key] != value]
    if differ:
        told = ", ".join(f"`{key}` was {pins.learned[key]!r} and is {now[key]!r}" for key in differ[:3])
        hint = f"`gyral train --resume {number}` takes the run's own; train afresh to change them"
        raise UsageError(f"run {number} learned under other settings", why=told, hint=hint)
    saved.take_over(found, run.folder)
    run.reads("run", str(number), found.manifest.step)
    run.note(f"going on with run {number} after step {found.manifest.step:,} of {pins.steps:,}")
    return pins.dataset


def _check_dataset(root: Path, number: int, dataset: str, pins: Pins) -> None:
    same = (pins.dataset, pins.dataset.partition("@")[0], "")
    if dataset not in same and str(Path(dataset).expanduser().resolve()) != pins.dataset:
        hint = f"`gyral train --resume {number}` takes the run's own"
        raise UsageError(f"run {number} learned from `{pins.dataset}`, not from `{dataset}`", hint=hint)
    data = folder.find(root, pins.dataset)
    if digest_of(data) != pins.dataset_sha256:
        why = "it is another than when the run began (somebody was erased from it, or it was made anew)"
        hint = f"train afresh on what it is now: `gyral train {pins.dataset}`"
        raise UsageError(f"the dataset `{pins.dataset}` has changed", why=why, where=str(data.folder), hint=hint)
