"""Which document goes: one that is near enough to a document that stays, and none for being near to one that goes.

Peers join all matches into components and keep one of each, so a chain A–B–C removes C for a likeness to B although A is kept.
Here the best document stays, what is near to it goes, and so on with what is left: every removed document has a kept twin with
a true Jaccard at the threshold or above. The price: of a chain of n more than one stays.
"""

from __future__ import annotations

import numpy as np

from gyral.curate.near.pairs import Pairs
from gyral.errors import InputError


def star(
    num_nodes: int, pairs: Pairs, priority_order: np.ndarray, is_alive: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Decide by the verified pairs alone; no text is read.

    Parameters
    ----------
    priority_order : int64 [n], nodes, the best first: ties broken by content make the decision one of content.
    is_alive : bool [n]; a node that is dropped for another reason neither stays nor is anyone's twin.
    threshold : Jaccard from which a node goes.

    Returns
    -------
    twin, jaccard : int64 [n], the kept node it goes for, -1: it stays; float32 [n], their Jaccard, 0 where there is none.

    Raises
    ------
    InputError : pairs of other nodes than these.
    """
    from gyral.curate.near import pairs_kernel

    if len(pairs.b) and int(pairs.b.max()) >= num_nodes:
        raise InputError(f"a pair of node {int(pairs.b.max()):,}, of {num_nodes:,}", where="near-duplicates")
    near = pairs.jaccard >= np.float32(threshold)
    starts, other, number = pairs_kernel.neighbours(num_nodes, pairs.a[near], pairs.b[near])
    twin, jaccard = np.full(num_nodes, -1, np.int64), np.zeros(num_nodes, np.float32)
    alive = np.ascontiguousarray(is_alive, np.bool_)
    order = np.ascontiguousarray(priority_order, np.int64)
    pairs_kernel.greedy(order, alive, starts, other, number, pairs.jaccard[near], twin, jaccard)
    return twin, jaccard
