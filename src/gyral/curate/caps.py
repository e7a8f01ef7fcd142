"""Caps: no more than the newest N rows of a subject, or of a subject and an object.

Few subjects often make most of the events, and what is learned would be of them. The newest say most about what comes next.
"""

from __future__ import annotations

import numpy as np


def over(keys: np.ndarray, most: int) -> np.ndarray:
    """Mask of the rows that have `most` newer ones of the same key.

    Rows must be in order of time; of two at one time the later one is newer.

    Parameters
    ----------
    keys : int codes [n].
    most : 0: no cap.
    """
    if most == 0 or len(keys) <= most:
        return np.zeros(len(keys), dtype=bool)
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    ends = np.flatnonzero(np.r_[sorted_keys[1:] != sorted_keys[:-1], True])
    sizes = np.diff(np.r_[-1, ends])
    newer = np.repeat(ends, sizes) - np.arange(len(keys))
    mask = np.empty(len(keys), dtype=bool)
    mask[order] = newer >= most
    return mask
