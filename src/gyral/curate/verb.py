"""`gyral curate`: events of the lake, or documents of a source."""

from __future__ import annotations

import re
from pathlib import Path

from gyral.config import Config
from gyral.lake.dataset import Dataset
from gyral.run import Run


def curate(root: Path, config: Config, run: Run) -> Dataset:
    """Make the next version of the dataset that the configuration names; without a name, that of what it is made of."""
    name = config.curate.name or name_of(config.curate.source)
    from gyral.curate import documents

    if documents.is_of_documents(root, name, config):
        return documents.curate(root, name, config, run)
    from gyral.curate import interactions

    return interactions.curate(root, name, config, run)


def name_of(source: str) -> str:
    """What a dataset is called whose source is all that is known."""
    last = re.split(r"[/:]", source.rstrip("/").partition("!")[0].partition("==")[0])[-1]
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", last.split(".")[0] or last).strip("_-")
    return plain or ("documents" if source else "interactions")
