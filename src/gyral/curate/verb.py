"""`gyral curate`: events of the lake, or documents of a source."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gyral.config import Config
from gyral.errors import NotFound, UsageError
from gyral.files import find_version
from gyral.lake import dataset as datasets
from gyral.lake.dataset import Dataset
from gyral.lake.documents import EDITS
from gyral.run import Run

if TYPE_CHECKING:
    from gyral.curate.probe import Trainer


def curate(root: Path, config: Config, run: Run, trainer: Trainer | None = None) -> Dataset:
    """Make the next version of the dataset that the configuration names; without a name, that of what it is made of.

    Parameters
    ----------
    trainer : for the ablation of documents: texts → scorer; None: nothing is ablated.
    """
    name = config.curate.name or name_of(config.curate.source)
    if config.curate.source or _is_of_documents(root, name):
        from gyral.curate import documents

        return documents.curate(root, name, config, run, trainer)
    if trainer is not None:
        raise UsageError("`--ablate` needs documents", hint="name them: `--source FOLDER`")
    from gyral.curate import interactions

    return interactions.curate(root, name, config, run)


def _is_of_documents(root: Path, name: str) -> bool:
    """Whether the newest version of a dataset is of documents, by the files beside its manifest, which may be damaged."""
    with suppress(NotFound):
        return (find_version(root / datasets.FOLDER, "dataset", name, "") / EDITS).exists()
    return False


def name_of(source: str) -> str:
    """What a dataset is called whose source is all that is known."""
    last = re.split(r"[/:]", source.rstrip("/").partition("!")[0].partition("==")[0])[-1]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", last.split(".")[0] or last).strip("_-")
    return plain or ("documents" if source else "interactions")
