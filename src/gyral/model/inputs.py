"""Event → numbers, one way for training and serving, so the two cannot differ.

An `Inputs` is the vocabulary a model was trained with; it is stored beside the weights and is the only thing that turns a
request into codes and codes into an answer.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.errors import InputError
from gyral.files import write_atomic
from gyral.model.recommender import Interactions

FILE = "inputs.json"


class Inputs(msgspec.Struct, frozen=True):
    """Code ↔ name of subjects, objects and countries; `titles` are for people, one an object, or none at all.

    A subject that was erased keeps their code and has an empty name, which nobody is found by.
    """

    subjects: list[str]
    objects: list[str]
    countries: list[str]
    titles: list[str] = []


class Codes:
    """The lookups of one `Inputs`, built once a model."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.subject = {name: code for code, name in enumerate(inputs.subjects) if name}
        self.object = {name: code for code, name in enumerate(inputs.objects)}
        self.country = {name: code for code, name in enumerate(inputs.countries)}

    def objects(self, names: list[str]) -> np.ndarray:
        """Codes of the names that are known, in their order, int32."""
        return np.array([self.object[name] for name in names if name in self.object], dtype=np.int32)


def encode(rows: pa.Table) -> tuple[Inputs, Interactions]:
    """Number the names of a dataset of interactions.

    Codes follow the sorted names, so they depend on what is in the data and not on its order.

    Parameters
    ----------
    rows : columns subject, object, event_time, country, title; sorted by time.
    """
    subjects, subject = _numbered(rows["subject"])
    objects, object_ = _numbered(rows["object"])
    countries, country = _numbered(rows["country"])
    time = rows["event_time"].cast(pa.int64()).to_numpy()
    data = Interactions(
        subject=subject,
        object=object_,
        time=time,
        country=country,
        num_subjects=len(subjects),
        num_objects=len(objects),
        num_countries=len(countries),
    )
    return Inputs(subjects, objects, countries, _titles(rows, object_, len(objects))), data


def save(inputs: Inputs, folder: Path) -> None:
    """Write `inputs.json`."""
    write_atomic(folder / FILE, msgspec.json.encode(inputs))


def load(folder: Path) -> Inputs:
    """Read `inputs.json`.

    Raises
    ------
    InputError : it is missing or damaged.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Inputs)
    except (OSError, msgspec.DecodeError) as error:
        hint = "train the model again"
        raise InputError(
            f"the inputs of `{folder.name}` cannot be read", why=str(error), where=str(folder), hint=hint
        ) from None


def _numbered(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    encoded = column.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    code = np.full(len(names) + 1, -1, dtype=np.int32)
    code[order] = np.arange(len(names), dtype=np.int32)
    indices = pc.fill_null(encoded.indices, len(names)).to_numpy()
    return [names[place] for place in order], code[indices]


def _titles(rows: pa.Table, objects: np.ndarray, num_objects: int) -> list[str]:
    """The newest title of each object; an empty list when the data has none."""
    title = rows["title"].combine_chunks()
    given = np.flatnonzero(title.is_valid().to_numpy(zero_copy_only=False))
    if len(given) == 0:
        return []
    newest = np.full(num_objects, -1, dtype=np.int64)
    newest[objects[given]] = given
    return [text or "" for text in title.take(pa.array(newest, mask=newest < 0)).to_pylist()]
