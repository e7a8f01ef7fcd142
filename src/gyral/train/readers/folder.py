"""What `train` is asked to learn from: a dataset by its name, what comes into the lake, or a folder of shards by its path."""

from __future__ import annotations

from pathlib import Path

from gyral.lake import dataset as datasets
from gyral.lake.arrivals import SCHEME, Arrivals
from gyral.lake.dataset import Dataset
from gyral.lake.foreign import Foreign
from gyral.train import readers


def find(root: Path, name: str) -> Dataset:
    """Open a dataset by name, what comes into the lake by `lake:NAME`, or a folder of WebDataset, MDS, litdata or Parquet.

    Raises
    ------
    NotFound : there is no such dataset.  InputError : the shards cannot be used.
    """
    if name.startswith(SCHEME):
        return Arrivals(root, name)
    path = Path(name).expanduser()
    if not readers.is_readable(path):
        return datasets.find(root, name)
    rows = readers.open_rows(path)
    return Foreign(path.resolve(), rows.columns, len(rows), rows.read, rows.digest)


def title_of(data: Dataset) -> str:
    """What a model of it is called when nothing else is said."""
    return data.title if isinstance(data, Foreign | Arrivals) else data.name.partition("@")[0]
