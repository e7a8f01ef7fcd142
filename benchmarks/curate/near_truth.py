"""All pairs of documents with a Jaccard of .5 or more, exactly, by code that shares nothing with `gyral.curate.near`.

Words by Python's strings and `unicodedata`, shingles as tuples, a prefix filter over the rarest shingles (Bayardo, Ma and
Srikant, Scaling up all pairs similarity search, WWW 2007), then `numpy.intersect1d`. Minutes, not seconds.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

SPACELESS_NAMES = ("HIRAGANA", "KATAKANA", "THAI", "LAO", "MYANMAR", "KHMER", "HALFWIDTH KATAKANA", "BOPOMOFO")
HAN_NAMES = (
    "CJK UNIFIED",
    "CJK COMPAT",
    "CJK RADICAL",
    "KANGXI",
    "IDEOGRAPHIC ITERATION",
    "IDEOGRAPHIC ZERO",
    "IDEOGRAPHIC CLOSING",
)


class _Fold(dict[int, str]):
    """What a character becomes: itself folded, a space, nothing, or itself between spaces with a mark of its kind."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category, name = unicodedata.category(char), unicodedata.name(char, "")
        if category == "Cf" or 0x300 <= code <= 0x36F or 0xFE00 <= code <= 0xFE0F:
            to = ""
        elif category[0] in "PSZ" or category == "Cc":
            to = " "
        elif name.startswith(HAN_NAMES):
            to = f" \x02{char} "
        elif name.startswith(SPACELESS_NAMES):
            to = f" \x01{char} "
        else:
            low = char.lower()
            bare = "".join(each for each in unicodedata.normalize("NFD", low) if not "\u0300" <= each <= "\u036f")
            to = (bare if len(bare) == 1 else low if len(low) == 1 else char).replace("ς", "σ")
        self[code] = to
        return to


def shingles(texts: Sequence[str]) -> list[np.ndarray]:
    """Each text's set of runs of tokens that weigh five words, six Han characters or twelve others, int64, ascending."""
    fold = _Fold()
    sets = (_shingles(text.translate(fold).split()) for text in texts)
    return [np.sort(np.fromiter(each, np.int64, len(each))) for each in sets]


def jaccard_of(one: np.ndarray, other: np.ndarray) -> float:
    """Of two ascending arrays of distinct values."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _shingles(tokens: list[str]) -> set[int]:
    if not any(token[0] in "\x01\x02" for token in tokens):
        return {hash(run) for run in zip(*(tokens[at:] for at in range(5)), strict=False)} or {hash(tuple(tokens))}
    weights = [10 if token[0] == "\x02" else 5 if token[0] == "\x01" else 12 for token in tokens]
    found, begin, weight = set(), 0, 0
    for end in range(len(tokens)):
        weight += weights[end]
        while weight - weights[begin] >= 60:
            weight -= weights[begin]
            begin += 1
        if weight >= 60:
            found.add(hash(tuple(tokens[begin : end + 1])))
    return found or {hash(tuple(tokens))}


def all_pairs(sets: Sequence[np.ndarray], least: float) -> dict[tuple[int, int], float]:
    """Every pair a < b with a Jaccard of `least` or more, and the Jaccard."""
    values, inverse, often = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    rank = np.empty(len(values), np.int32)
    rank[np.argsort(often, kind="stable")] = np.arange(len(values), dtype=np.int32)
    ranked = [np.sort(each) for each in np.split(rank[inverse], np.cumsum([len(each) for each in sets])[:-1])]
    alone = int((often == 1).sum())  # of these ranks no other text has any
    del values, inverse, often, rank
    index: dict[int, list[int]] = defaultdict(list)
    found = {}
    for number in sorted(range(len(sets)), key=lambda each: len(sets[each])):
        mine, candidates = ranked[number], set()
        prefix = mine[: len(mine) - math.ceil(least * len(mine)) + 1]
        for value in prefix[prefix >= alone].tolist():
            candidates.update(index[value])
            index[value].append(number)
        for other in candidates:
            if len(ranked[other]) >= least * len(mine):
                jaccard = jaccard_of(mine, ranked[other])
                if jaccard >= least:
                    found[min(number, other), max(number, other)] = jaccard
    return found
