"""Who owns which bucket: a map that needs nobody to keep it, because each bucket's owner alone may give it away.

A bucket's entry is one word, `epoch << 16 | shard`. Only the owner under epoch e can make its entry of a higher epoch, by one
durable write, so two entries of a bucket are never at odds: the higher epoch is newer, and maps that met are merged bucket by
bucket with a maximum. Shards keep the map with their rows, clients carry it from shard to shard: no coordinator, no quorum,
nothing that must be up for a worker to go on. A map is 32 KB, said once a link.

Tried and rejected: one map with one version (needs somebody who gives out versions, and two who move at once must wait for
each other); the taker decides (a giver that comes back must ask before it may serve).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.params.spec import BUCKETS

MAX_SHARDS = 256
_SHARD_BITS = np.uint64(16)
_SHARD_MASK = np.uint64(0xFFFF)


def even_map(num: int) -> np.ndarray:
    """Owner of each bucket where `num` shards have as many each, uint16 [BUCKETS]; as words, that is the first map."""
    return (np.arange(BUCKETS) * num // BUCKETS).astype(np.uint16)


def first_words(num: int) -> np.ndarray:
    """Of epoch 0, uint64 [BUCKETS]."""
    return even_map(num).astype(np.uint64)


def owners_of(words_B: np.ndarray) -> np.ndarray:
    """Shard of each bucket, uint16 [BUCKETS]."""
    return (words_B & _SHARD_MASK).astype(np.uint16)


def epochs_of(words_B: np.ndarray) -> np.ndarray:
    """uint64 [BUCKETS]."""
    return np.asarray(words_B >> _SHARD_BITS)


def version_of(words_B: np.ndarray) -> int:
    """The highest epoch of a map; a move's is higher than any its giver has heard of."""
    return int(epochs_of(words_B).max())


def given(words_B: np.ndarray, buckets: np.ndarray, to: int, epoch: int) -> np.ndarray:
    """The map after some buckets went to shard `to`."""
    words = words_B.copy()
    words[buckets] = np.uint64(epoch << 16 | to)
    return words


def decoded(body: bytes) -> np.ndarray:
    """Words of a frame.

    Raises
    ------
    ValueError : it is no map.
    """
    words = np.frombuffer(body, np.uint64)
    if len(words) != BUCKETS:
        raise ValueError(f"a map of {len(words)} buckets")
    return words


class Share(NamedTuple):
    """Buckets that one shard should give another, ascending."""

    giver: int
    taker: int
    buckets: np.ndarray


def planned(words_B: np.ndarray, shards: int) -> list[Share]:
    """The fewest buckets to move so that shards 0 to `shards` − 1 have all, as many each (one more or less).

    Whoever has too many gives its last ones, so that what it keeps stays in one piece.
    """
    owners = owners_of(words_B).astype(np.int64)
    has = np.bincount(owners, minlength=max(shards, int(owners.max()) + 1))
    least, more = divmod(BUCKETS, shards)
    richest = sorted(range(shards), key=lambda shard: (-has[shard], shard))[:more]
    wanted = np.array([(least + (shard in richest)) if shard < shards else 0 for shard in range(len(has))])
    plan: list[Share] = []
    lack = [(shard, int(wanted[shard] - has[shard])) for shard in range(shards) if has[shard] < wanted[shard]]
    for giver in range(len(has)):
        surplus = np.flatnonzero(owners == giver)[wanted[giver] :] if has[giver] > wanted[giver] else np.zeros(0, np.int64)
        while len(surplus):
            taker, num = lack[0]
            part, surplus = surplus[:num], surplus[num:]
            plan.append(Share(giver, taker, part))
            lack[0] = (taker, num - len(part))
            if not lack[0][1]:
                lack.pop(0)
    return plan
