"""What a recommender's net is asked about: some subjects and what they met.

Shapes: B subjects, T positions, V objects, F numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Asked(NamedTuple):
    """One row a subject.

    Attributes
    ----------
    subjects, countries : codes, int64 [B]; −1 unknown.
    objects, times : what was met, oldest first, padded at the end, and seconds since the epoch, int64 [B, T].
    sizes : how many of them count, int64 [B].
    counted : numbers of each subject with each object now, float32 [B, V, F]; None unless the net wants them.
    words : hashed words of them, int64 [B, V, C].
    """

    subjects: Tensor
    countries: Tensor
    objects: Tensor
    times: Tensor
    sizes: Tensor
    counted: Tensor | None = None
    words: Tensor | None = None
