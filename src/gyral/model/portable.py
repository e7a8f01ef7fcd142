"""What of a model may leave for a device: everything that is nobody's own.

A recommender's folder holds the names of its subjects and what each of them met. A device gets neither: it knows what its own
user met and asks with that (`context.recent`), as somebody the model does not know. Its answers are those of the server to the
same question.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.model.card import Weights

OWN = {"indptr": 1, "history": 0, "weight": 0, "last": 0}
"""Arrays of a closed form that have something for each subject, and how much of them stays."""
OF_SUBJECTS = ("subjects.weight", "subjects.weight_scale")


class Portable(NamedTuple):
    """How a model goes to devices.

    Attributes
    ----------
    files : name → bytes of the files that are not sent as they are.
    runtimes : formats of which a device must run one; none: arithmetic on arrays, in any language.
    """

    files: dict[str, bytes]
    runtimes: tuple[str, ...]


def without_subjects(weights: Weights) -> Weights:
    """A recommender that knows no subject; what it answers somebody new stays the same, bit for bit.

    Raises
    ------
    InputError : its net counts what all subjects met at the time of the request.
    """
    settings = dict(weights.settings)
    if settings.get("net") == "ranking":
        why = "a ranking net counts what all subjects met, and no device may have that"
        raise InputError("the model cannot go to a device", why=why, hint="train with `train.task=sequence`, or in closed form")
    arrays = {name: each for name, each in weights.arrays.items() if not name.startswith("twin.")}
    for name, kept in OWN.items():
        if name in arrays:
            arrays[name] = arrays[name][:kept]
    if "sequence" in arrays:  # of all times only the newest, which is its "now"
        newest = int(arrays["sequence_time"].max(initial=0))
        arrays["sequence_indptr"] = arrays["sequence_indptr"][:1]
        arrays["sequence"] = np.zeros(1, arrays["sequence"].dtype)
        arrays["sequence_time"] = np.array([newest], arrays["sequence_time"].dtype)
    for name in OF_SUBJECTS:
        if name in arrays:  # a table's first row is that of nobody known
            arrays[name] = arrays[name][:1]
    if "subjects" in settings.get("shape", {}):
        settings["shape"] = {**settings["shape"], "subjects": 0}
    return Weights(arrays, settings)
