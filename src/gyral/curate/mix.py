"""How often each document is read: languages lifted by a temperature, repetition and domains capped, a ledger of who got what.

Languages share the target by their bytes to the power 1/T (T 1: as they are; larger: small ones are lifted). One that would be
read more than `max_epochs` times gets no more, and the rest goes to the others by their weights; a domain gets at most
`max_domain_share` of all. Both are one water-filling. Within a language every document has the same number of epochs, unless
its domain is capped. Fractions of an epoch become whole copies by a hashed order of the documents, so what a group gets is less
than it should by less than one document, and a cap is never passed.

The order is a computed permutation of the copies (`gyral.lake.order`): the state of a sampler is one integer, any number of
workers share one order, and a hundred million documents need 4 bytes each for their copies and nothing for a shuffle. Copies of
a document are spread at random over a pass.

Rejected: drawing documents with replacement by their weights: at one epoch 37 % of a language are never seen, at four 1.8 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from gyral.config.curation import Mix
from gyral.errors import ConfigError
from gyral.lake.order import permuted, scatter


class Share(msgspec.Struct, frozen=True):
    """A line of the ledger.

    Attributes
    ----------
    kind : `language`, or `domain` where one was capped.
    documents, size_bytes : what it had.
    wanted_bytes : its share by temperature before any cap; for a domain, by the epochs of its languages.
    drawn_documents, drawn_bytes, epochs : what it got in one pass.
    capped : the setting that held it back, or empty.
    """

    kind: str
    name: str
    documents: int
    size_bytes: int
    wanted_bytes: int
    drawn_documents: int
    drawn_bytes: int
    epochs: float
    capped: str = ""


class Mixture(NamedTuple):
    """Copies of each document in one pass (uint8 [n]), the bytes planned, those asked for, and the ledger."""

    copies: np.ndarray
    planned_bytes: int
    target_bytes: int
    ledger: list[Share]


class _Cells(NamedTuple):
    """All pairs of a language and a domain that have documents, sorted: their codes, bytes, most bytes and bytes given."""

    language: np.ndarray
    domain: np.ndarray
    size_bytes: np.ndarray
    limit: np.ndarray
    room: np.ndarray
    given: np.ndarray

    @property
    def is_full(self) -> np.ndarray:
        return self.given >= self.room * (1 - 1e-9)


def mix(
    language: np.ndarray, domain: np.ndarray, size_bytes: np.ndarray, names: tuple[list[str], list[str]], by: Mix
) -> Mixture:
    """Decide how often each document is read in one pass.

    Parameters
    ----------
    language, domain : code of each document's, int [n], into `names`.
    size_bytes : of each document, int64 [n].
    names : of the languages, of the domains.

    Returns
    -------
    The mixture. `planned_bytes` is less than `target_bytes` where the caps allow no more.

    Raises
    ------
    ConfigError : `max_domain_share` cannot hold with so few domains.
    """
    languages, domains = (len(each) for each in names)
    target = float(by.target_bytes or size_bytes.sum())
    keys, cell = np.unique(language.astype(np.int64) * domains + domain, return_inverse=True)
    of_language, of_domain = np.divmod(keys, max(domains, 1))
    cell_bytes = np.bincount(cell, size_bytes, len(keys))
    limit = by.max_epochs * cell_bytes
    domain_limit = np.bincount(of_domain, limit, domains)
    planned = _reachable(domain_limit, by.max_domain_share, target)
    most = by.max_domain_share * planned
    had = np.bincount(of_language, cell_bytes, languages)
    weights = np.where(had > 0, np.maximum(had, 1.0) ** (1.0 / by.temperature), 0.0)
    bounds = np.searchsorted(of_language, np.arange(languages + 1)).tolist()
    # What a domain has too much goes to others, which may then have too much: each turn caps one more at least, and no more
    # than 1 / max_domain_share of them can have their cap.
    room, is_capped = limit.copy(), np.zeros(domains, bool)
    while True:
        given, unheld = _fill_cells(cell_bytes, room, weights, planned, bounds)
        had_by_domain = np.bincount(of_domain, given, domains)
        over = (had_by_domain > most * (1 + 1e-9)) & ~is_capped
        if not over.any():
            break
        inside = over[of_domain]
        room[inside] = given[inside] * (most / had_by_domain[of_domain[inside]])
        is_capped |= over
    cells = _Cells(of_language, of_domain, cell_bytes, limit, room, given)
    copies = _copies(cell, cells, size_bytes, most, by.seed)
    wanted = weights / max(float(weights.sum()), 1e-300) * target, np.bincount(of_domain, unheld, domains)
    ledger = [
        *_lines("language", language, names[0], cells.language, cells, wanted[0], size_bytes, copies),
        *(
            line
            for line in _lines("domain", domain, names[1], of_domain, cells, wanted[1], size_bytes, copies)
            if line.capped == "mix.max_domain_share"
        ),
    ]
    return Mixture(copies, int(planned), int(target), ledger)


def _fill_cells(
    size_bytes: np.ndarray, room: np.ndarray, weights: np.ndarray, total: float, bounds: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of each cell: languages by weight, within one all cells alike; and what each had got if no cap were on it.

    Parameters
    ----------
    bounds : where the cells of each language begin, and the end.
    """
    rooms = np.array([room[begin:end].sum() for begin, end in pairwise(bounds)])
    given, unheld = np.zeros(len(room)), np.zeros(len(room))
    for (begin, end), share in zip(pairwise(bounds), fill(weights, rooms, total), strict=True):
        inside = slice(begin, end)
        given[inside] = fill(size_bytes[inside], room[inside], share)
        epochs = float((given[inside] / np.maximum(size_bytes[inside], 1)).max(initial=0.0))
        unheld[inside] = epochs * size_bytes[inside]
    return given, unheld


def fill(weights: np.ndarray, room: np.ndarray, total: float) -> np.ndarray:
    """Share a total by weights, none above its room: what overflows goes to the others, again by weights.

    Returns `min(room, λ weights)` with the one λ for which they sum to the total, or `room` where that is less.
    """
    if room[weights > 0].sum() <= total:
        return np.where(weights > 0, room, 0.0)
    level = np.divide(room, weights, out=np.full(len(room), np.inf), where=weights > 0)
    order = np.argsort(level, kind="stable")
    full = np.concatenate([[0.0], np.cumsum(np.where(weights > 0, room, 0.0)[order])])[:-1]
    open_weights = np.cumsum(weights[order][::-1])[::-1]
    # λ if all before this one in the order are full; the first that stays below its own level is the one.
    levels = np.divide(total - full, open_weights, out=np.full(len(room), np.inf), where=open_weights > 0)
    is_below = levels <= level[order]
    if not is_below.any():  # the total is that of the room, but for the last bit
        return np.where(weights > 0, room, 0.0)
    first = int(np.argmax(is_below))
    filled: np.ndarray = np.minimum(room, levels[first] * weights)
    return filled


class Sampler:
    """The documents of a mixture in their order, at any position.

    A position counts copies over all passes: pass `position // len(self)`, place `position % len(self)`.

    Parameters
    ----------
    copies : of each document in one pass, integers [n].
    seed : of the order.
    """

    def __init__(self, copies: np.ndarray, seed: int) -> None:
        self._size = int(copies.sum(dtype=np.int64))
        self._ends = np.cumsum(copies, dtype=np.uint32 if self._size < 1 << 32 else np.int64)
        self.seed = seed

    def __len__(self) -> int:
        """Copies in one pass."""
        return self._size

    def documents(self, positions: np.ndarray) -> np.ndarray:
        """Number of the document at each position, int64."""
        number, place = np.divmod(np.asarray(positions, np.int64), max(self._size, 1))
        found = np.empty(len(place), np.int64)
        for each in np.unique(number):
            inside = number == each
            slots = permuted(place[inside], self._size, self.seed, int(each))
            found[inside] = np.searchsorted(self._ends, slots.astype(self._ends.dtype), side="right")
        return found

    def stream(self, start: int, stop: int, worker: int = 0, workers: int = 1, batch: int = 65_536) -> Iterator[np.ndarray]:
        """Documents of the positions from `start` to `stop` in blocks; of several workers each takes every n-th position.

        A worker that goes on from `start` gets what it would have got, whatever the number of workers was before.
        """
        for begin in range(start, stop, batch * workers):
            positions = np.arange(begin, min(begin + batch * workers, stop))
            mine = positions[positions % workers == worker]
            if len(mine):
                yield self.documents(mine)


def _reachable(limits: np.ndarray, share: float, target: float) -> float:
    """The most bytes ≤ target of which no domain has more than `share` or than its own limit."""
    there = int(np.count_nonzero(limits))
    if there and share * there < 1 - 1e-9:
        what = f"`mix.max_domain_share = {share:g}` cannot hold"
        why = f"there are {there} domains, so one of them has at least {1 / there:.3g} of all"
        raise ConfigError(what, why=why, hint=f"set it to {min(1.0, 2 / there):.2g} or more, or 1 for no cap")
    if np.minimum(limits, share * target).sum() >= target:
        return target
    low, high = 0.0, target
    for _ in range(64):  # what fits grows slower than what is asked for, so there is one crossing
        middle = (low + high) / 2
        if np.minimum(limits, share * middle).sum() >= middle * (1 - 1e-12):
            low = middle
        else:
            high = middle
    return low


def _copies(cell: np.ndarray, cells: _Cells, size_bytes: np.ndarray, most: float, seed: int) -> np.ndarray:
    """Whole copies of each document, uint8: the whole epochs of its cell, and one more for the first of a hashed order.

    Cells of a language that no cap holds have the same epochs and share one budget, so a cell of one small document is
    not always rounded down.
    """
    whole = np.floor(cells.given / np.maximum(cells.size_bytes, 1) + 1e-9)
    left = np.maximum(cells.given - whole * cells.size_bytes, 0.0)
    pools, pool = np.unique(np.where(cells.is_full, np.arange(len(left)), -1 - cells.language), return_inverse=True)
    order = np.argsort(scatter(np.arange(len(cell)), seed), kind="stable")
    extra = _first(order, pool[cell], size_bytes, np.bincount(pool, left, len(pools)))
    domains = int(cells.domain.max(initial=0)) + 1
    domain_left = most - np.bincount(cells.domain, whole * cells.size_bytes, domains)
    extra &= _first(order, cells.domain[cell], size_bytes * extra, domain_left)
    copies: np.ndarray = (whole[cell] + extra).astype(np.uint8)
    return copies


def _first(order: np.ndarray, group: np.ndarray, size_bytes: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Which documents, taken group by group in this order, stay within the budget of their group; bool [n]."""
    if not len(order):
        return np.zeros(0, bool)
    rows = order[np.argsort(group[order], kind="stable")]
    sizes, groups = size_bytes[rows].astype(np.float64), group[rows]
    ends = np.cumsum(sizes)
    begins = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
    before = np.repeat(ends[begins] - sizes[begins], np.diff(np.append(begins, len(rows))))
    fits = np.zeros(len(order), bool)
    fits[rows] = ends - before <= budget[groups] * (1 + 1e-12)
    return fits


def _lines(
    kind: str,
    code: np.ndarray,
    names: list[str],
    of_cell: np.ndarray,
    cells: _Cells,
    wanted: np.ndarray,
    size_bytes: np.ndarray,
    copies: np.ndarray,
) -> list[Share]:
    """The ledger of the languages or of the domains, the largest first."""
    count = len(names)
    documents, had = np.bincount(code, minlength=count), np.bincount(code, size_bytes, count)
    drawn, got = np.bincount(code, copies, count), np.bincount(code, size_bytes * copies.astype(np.int64), count)
    limit, room, given = (np.bincount(of_cell, each, count) for each in (cells.limit, cells.room, cells.given))
    is_full = (given >= room * (1 - 1e-9)) & (had > 0)
    by_domain = room < limit * (1 - 1e-9)
    lines = []
    for number in np.argsort(-had, kind="stable").tolist():
        capped = ("mix.max_domain_share" if by_domain[number] else "mix.max_epochs") if is_full[number] else ""
        lines.append(
            Share(
                kind=kind,
                name=names[number],
                documents=int(documents[number]),
                size_bytes=int(had[number]),
                wanted_bytes=int(wanted[number]),
                drawn_documents=int(drawn[number]),
                drawn_bytes=int(got[number]),
                epochs=round(float(got[number] / max(had[number], 1)), 6),
                capped=capped,
            )
        )
    return lines
