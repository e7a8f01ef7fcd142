"""Verbs put together, since they never import each other: curation with a trainer that ablates, training on a file.

What `gyral train` is given is the name of a dataset, or a file, a folder or a package that one is made of first. A family that
learns from events ingests and curates the file's events, the others curate its documents; each verb has a run of its own, as if
it had been called by hand. A folder of shards is trained on as it lies. A dataset wins over a file of the same name, unless
that is written as a path, `./x`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from gyral import plugins
from gyral.config import Config
from gyral.curate.verb import curate, name_of
from gyral.errors import UsageError
from gyral.files import versions
from gyral.ingest.files import ingest
from gyral.ingest.sources import open_source
from gyral.lake import dataset as datasets
from gyral.lake.dataset import Dataset
from gyral.lake.table import Lake
from gyral.run import Run
from gyral.train import readers

Start = Callable[[str, Config], AbstractContextManager[Run]]
"""Verb and configuration → its run."""


def dataset_of(root: Path, what: str | None, config: Config, start: Start) -> str:
    """The name of the dataset to train on, which is made where `what` is a place.

    Raises
    ------
    UsageError : nothing is named, or there is no such family.  InputError : nothing in the place can be used.
    """
    if what is None:
        raise UsageError("no dataset is named", hint="`gyral train DATASET`, or `gyral train --resume RUN`")
    of_events = getattr(plugins.find("family", config.train.family), "of_events", False)
    lies_ready = not of_events and readers.is_readable(Path(what).expanduser())
    if lies_ready or not is_place(root, what):
        return what
    name = config.curate.name or name_of(what)
    if of_events:
        config = replace(
            config, ingest=replace(config.ingest, source=what), curate=replace(config.curate, source="", name=name)
        )
        with start("ingest", config) as run:
            ingest(root, config, run)
            app = open_source(what, root, run.note).name
        apps = Lake.of(root, config).overview()["tables"]["events"].get("apps") or {}
        if app in apps and not config.curate.apps:  # events of other files in the lake are not meant
            config = replace(config, curate=replace(config.curate, apps=[app]))
    else:
        config = replace(config, curate=replace(config.curate, source=what, name=name))
    with start("curate", config) as run:
        return curated(root, config, run).name


def curated(root: Path, config: Config, run: Run) -> Dataset:
    """`gyral curate`, with the trainer for `--ablate`: verbs do not import each other, so they are brought together here."""
    if not config.curate.ablate:
        return curate(root, config, run)
    from gyral.train.ablate import trainer_of

    return curate(root, config, run, trainer_of(config, run.note))


def told(made: Dataset) -> dict[str, Any]:
    """What `gyral curate --json` prints."""
    manifest = made.manifest
    rows: dict[str, Any] = {"rows_in": manifest.rows_in, "rows_kept": manifest.rows_kept, "dropped": manifest.dropped}
    ablation = manifest.report.get("ablation")
    return {"dataset": manifest.dataset, **rows, **({"ablation": ablation} if ablation else {})}


def is_place(root: Path, what: str) -> bool:
    """Whether it is a file, a folder or a package, and not the name of a dataset."""
    scheme, colon, _ = what.partition(":")
    if colon and scheme in plugins.names("source"):
        return True
    is_path = "/" in what or what.startswith(".")
    return Path(what).exists() and (is_path or not versions(root / datasets.FOLDER, what.partition("@")[0]))
