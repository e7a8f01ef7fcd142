"""The pictures of a dataset, decoded, with captions and concepts, on two sides: what is trained on and what is kept aside.

Both verbs that make models need it: `train` measures on what it kept aside, `compress` on the same pictures again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from gyral.errors import InputError
from gyral.lake import documents
from gyral.lake.dataset import Dataset
from gyral.model.pictures import Pictures, decode_all, kept_aside

HELD_OUT = 0.1
"""Share of concepts that is kept aside to measure on."""


def read(
    data: Dataset, side: int, channels: int, *, by_name: bool = False, captioned: bool = False
) -> tuple[Pictures, list[str]]:
    """All pictures of a dataset, with the names of their concepts.

    Parameters
    ----------
    side, channels : that pictures are decoded to.
    by_name : pictures of one file name, without folder and ending, are of one concept; False: those of equal pixels.
    captioned : leave out pictures without a caption.

    Raises
    ------
    InputError : the dataset has none, or they cannot be decoded.
    """
    if data.manifest.kind not in ("pairs", "images"):
        hint = "`gyral curate NAME --source FOLDER_OF_PICTURES` makes one"
        raise InputError(f"`{data.name}` is a dataset of {data.manifest.kind}; `vision` needs one of pictures", hint=hint)
    rows = Rows(data)
    raws = list(rows.pictures(captioned))
    pixels, is_sound = decode_all(raws, len(raws), side, channels)
    if not is_sound.any():
        hint = "`gyral show` tells what was dropped of it"
        raise InputError(f"`{data.name}` has no {'pictures with captions' if captioned else 'pictures'}", hint=hint)
    known = [each for each, sound in zip(rows.named(by_name), is_sound.tolist(), strict=True) if sound]
    order, concept = np.unique(np.array([key for _, key in known]), return_inverse=True)
    number = np.full(len(raws), -1, np.int64)
    number[is_sound] = np.arange(int(is_sound.sum()))
    told = [(int(number[at]), text, language) for at, text, language in rows.captions if number[at] >= 0]
    seen: set[tuple[int, str, str]] = set()  # two renderings of a concept have the same names
    distinct = []
    for at, text, language in told:
        each = (int(concept[at]), text, language)
        if each not in seen:
            seen.add(each)
            distinct.append(each)
    distinct.sort(key=lambda each: each[0])
    pictures = Pictures(
        pixels[is_sound],
        [name for name, _ in known],
        concept.astype(np.int64),
        [text for _, text, _ in distinct],
        [language for _, _, language in distinct],
        np.array([at for at, _, _ in distinct], np.int64),
    )
    return pictures, [str(name) for name in order]


def split(known: tuple[Pictures, list[str]]) -> tuple[Pictures, Pictures]:
    """What is trained on and what is kept aside, by concept."""
    pictures, names = known
    aside = kept_aside(names, HELD_OUT)
    return pictures.only(np.flatnonzero(~aside)), pictures.only(np.flatnonzero(aside))


class Rows:
    """Rows of a dataset: its pictures once each, in order, and captions as (picture, text, language)."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self.captions: list[tuple[int, str, str]] = []
        self._places: list[tuple[str, int]] = []
        self._digests: list[str] = []

    def pictures(self, captioned: bool) -> Iterator[bytes]:
        """Bytes of each picture; places, digests and captions are kept meanwhile."""
        number: dict[tuple[str, str], int] = {}
        for batch in documents.batches(self._data, ["file", "offset", "declared", "image_digest"]):
            columns = [
                batch[name].to_pylist() if name in batch.schema.names else [None] * batch.num_rows
                for name in ("file", "offset", "declared", "image_digest", "text")
            ]
            for row, (file, offset, declared, digest, text) in enumerate(zip(*columns, strict=True)):
                if captioned and not text:
                    continue
                key = (file, digest.hex() if digest else f"{file}@{offset}")
                if key not in number:
                    number[key] = len(self._places)
                    self._places.append((file, offset))
                    self._digests.append(key[1])
                    yield batch["raw"][row].as_py() or b""
                if text:
                    self.captions.append((number[key], text, declared or ""))

    def named(self, by_name: bool) -> list[tuple[str, str]]:
        """Id and concept of each picture; of several pictures in one file (an archive) each is `FILE@OFFSET`, by itself."""
        count = Counter(file for file, _ in self._places)
        found = []
        for (file, offset), digest in zip(self._places, self._digests, strict=True):
            name = file if count[file] == 1 else f"{file}@{offset}"
            stem = PurePosixPath(file).stem if count[file] == 1 else name
            found.append((name, stem if by_name else digest))
        return found
