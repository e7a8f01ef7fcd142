"""Documents that lie elsewhere, in shards of another trainer: a dataset without decisions, read where it is.

All rows are kept: nothing was curated. Whoever reads documents (`gyral.lake.documents.batches`) gets the columns it knows; what
the shards do not tell is null.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from gyral.errors import InputError
from gyral.lake.dataset import Dataset, Manifest

TEXTS = ("text", "txt", "content", "caption", "body", "json.text")
PICTURES = ("png", "jpg", "jpeg", "webp", "image", "img", "picture")
BLOCK_ROWS = 1024
Read = Callable[[np.ndarray, Sequence[str]], dict[str, Any]]


class Foreign(Dataset):
    """A folder of shards as a dataset; its name is its path.

    Parameters
    ----------
    columns, rows : that the shards have.
    read : indices and columns → values.
    digest : changes when the shards do.

    Raises
    ------
    InputError : it has neither texts nor pictures.
    """

    def __init__(self, folder: Path, columns: Sequence[str], rows: int, read: Read, digest: str) -> None:
        self._text = next((name for name in TEXTS if name in columns), "")
        self._picture = next((name for name in PICTURES if name in columns), "")
        if not (self._text or self._picture):
            hint = f"name a column `{TEXTS[0]}` or `{PICTURES[0]}`; there are {', '.join(f'`{name}`' for name in columns)}"
            raise InputError("the shards have neither texts nor pictures", where=str(folder), hint=hint)
        kind = "text" if not self._picture else "pairs" if self._text else "images"
        super().__init__(folder, Manifest(dataset=str(folder), kind=kind, rows_in=rows, rows_kept=rows, source=str(folder)))
        self._columns, self._read, self.digest = columns, read, digest

    @property
    def title(self) -> str:
        """The folder's name, as a model may be called."""
        return re.sub(r"[^A-Za-z0-9_-]+", "_", self.folder.name).strip("_-") or "shards"

    def require(self, kind: str, what: str) -> Self:
        """As of any dataset; whoever wants texts may have those beside pictures."""
        return self if kind == "text" and self._text else super().require(kind, what)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows, a block at a time: `text`, `raw` of pictures, and the columns named."""
        wanted = [name for name in (self._text, self._picture) if name]
        also = [name for name in columns if name in self._columns and name not in wanted]
        for start in range(0, self.manifest.rows_kept, BLOCK_ROWS):
            rows = np.arange(start, min(start + BLOCK_ROWS, self.manifest.rows_kept))
            found = self._read(rows, [*wanted, *also])
            raw = found[self._picture] if self._picture else []
            made = {name: pa.array(list(found[name])) for name in also}
            if "file" in columns and "file" not in made:
                made["file"] = pa.array([f"{row:012d}" for row in rows.tolist()])
            if "image_digest" in columns and self._picture:
                made["image_digest"] = pa.array([hashlib.blake2b(each or b"", digest_size=16).digest() for each in raw])
            for name in columns:
                made.setdefault(name, pa.nulls(len(rows), pa.string()))
            texts = found[self._text] if self._text else [None] * len(rows)
            made["text"] = pa.array([each.decode() if isinstance(each, bytes) else each for each in texts], pa.string())
            if self._picture:
                made["raw"] = pa.array(raw, pa.binary())
            yield pa.RecordBatch.from_pydict(made)
