"""Which purchases a return takes back: one pass over purchases and returns of a subject and an object in order of time."""

from __future__ import annotations

import numpy as np
from numba import njit

LOOK = 64
"""Open purchases that are looked at for one of the very quantity, so that a robot's thousands cost no square."""


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator,unused-ignore]
def undo(pairs: np.ndarray, quantities: np.ndarray, is_return: np.ndarray) -> np.ndarray:
    """What is left of each purchase, and of each return what no purchase was found for.

    A return takes the newest open purchase of exactly its quantity; where there is none, it takes from the newest ones on.

    Parameters
    ----------
    pairs : int64 [n], ascending; quantities : float64 [n], >= 0; is_return : bool [n].

    Returns
    -------
    float64 [n].
    """
    left = quantities.copy()
    below = np.full(len(pairs), -1, np.int64)  # of an open purchase the next older open one
    top = -1
    for row in range(len(pairs)):
        if row > 0 and pairs[row] != pairs[row - 1]:
            top = -1
        if not is_return[row]:
            below[row] = top
            top = row
            continue
        wanted = quantities[row]
        at, above, looked = top, -1, 0
        while at >= 0 and looked < LOOK and left[at] != wanted:
            above = at
            at = below[at]
            looked += 1
        if at >= 0 and looked < LOOK:
            left[at] = 0.0
            left[row] = 0.0
            if above < 0:
                top = below[at]
            else:
                below[above] = below[at]
            continue
        while top >= 0 and wanted > 0:
            taken = min(left[top], wanted)
            left[top] -= taken
            wanted -= taken
            if left[top] <= 0:
                top = below[top]
        left[row] = wanted
    return left
