"""Which blocks of a page are its content, by aligning a known text to them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from extractor_pages import words

RUN = 4


class Scanned(NamedTuple):
    """A page as the kernels left it, arrays cut to size."""

    data: np.ndarray
    title: tuple[int, int]
    text: np.ndarray
    nodes: np.ndarray
    blocks: np.ndarray
    tokens: np.ndarray

    def texts(self) -> list[str]:
        return [bytes(self.text[b[0] : b[1]]).decode("utf-8", "replace") for b in self.blocks]


def scanned(raw: bytes) -> Scanned:
    from gyral.curate.text.blocks_kernel import MOST_BLOCKS, MOST_NODES, MOST_TOKENS, scan

    data = np.frombuffer(raw, np.uint8)
    text, tokens = np.zeros(len(data) + 8, np.uint8), np.zeros(MOST_TOKENS, np.uint16)
    nodes, blocks = np.zeros((MOST_NODES, 4), np.int32), np.zeros((MOST_BLOCKS, 6), np.int32)
    num_nodes, num_blocks, begin, end = scan(data, text, nodes, blocks, tokens)
    blocks, nodes = blocks[:num_blocks].copy(), nodes[:num_nodes].copy()
    size = int(blocks[-1, 1]) if num_blocks else 0
    used = int(max(nodes[:, 3].max(initial=0), blocks[:, 5].max(initial=0)))
    return Scanned(data[begin:end].copy(), (0, end - begin), text[:size].copy(), nodes, blocks, tokens[:used].copy())


def shares(page: Scanned, gold: str) -> np.ndarray:
    """Share of the words of each block that are content, float [blocks].

    Blocks of four words and more by their runs of four words; shorter ones where they stand in the content between the places
    of the longer blocks around them, as a whole line or nearly. Copies of a text count once: the copy in the longest chain of
    blocks whose places ascend.
    """
    lines = [words(line) for line in gold.split("\n")]
    content = [word for line in lines for word in line]
    starts = set(np.cumsum([0, *(len(line) for line in lines)]).tolist())
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for at in range(len(content) - RUN + 1):
        places[tuple(content[at : at + RUN])].append(at)
    singles: dict[str, list[int]] = defaultdict(list)
    for at, word in enumerate(content):
        singles[word].append(at)
    tokens = [words(text) for text in page.texts()]
    out = np.zeros(len(tokens))
    where: list[int | None] = [None] * len(tokens)
    for b, own in enumerate(tokens):
        runs = [tuple(own[at : at + RUN]) for at in range(len(own) - RUN + 1)]
        hits = [run in places for run in runs]
        if runs and sum(hits):
            covered = np.zeros(len(own), bool)
            for at in np.flatnonzero(hits):
                covered[at : at + RUN] = True
            out[b] = covered.mean()
            first = next(run for run, hit in zip(runs, hits, strict=True) if hit)
            where[b] = places[first][0]
    _once(tokens, out, where)
    anchors = [b for b in range(len(tokens)) if where[b] is not None and out[b] > 0.5 and len(tokens[b]) >= 8]
    for b, own in enumerate(tokens):
        if not own or (len(own) >= RUN and out[b] > 0) or len(own) > 12:
            continue
        at = bisect_left(anchors, b)
        low = where[anchors[at - 1]] + len(tokens[anchors[at - 1]]) - 3 if at else -1  # type: ignore[operator]
        high = where[anchors[at]] if at < len(anchors) else len(content)
        near_low = low if at else (high - 60)  # type: ignore[operator]
        near_high = high if at < len(anchors) else low + 60
        for place in singles.get(own[0], ()):
            is_near = max(low, near_low) <= place <= min(high, near_high)  # type: ignore[type-var, operator]
            is_line = place in starts or len(own) > 1 or place + len(own) in starts
            if is_near and is_line and content[place : place + len(own)] == own:
                out[b], where[b] = 1.0, place
                break
    return out


def _once(tokens: list[list[str]], out: np.ndarray, where: list[int | None]) -> None:
    """Of blocks with one text and one place, keep the one nearest to where its neighbours in the content stand."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for b, own in enumerate(tokens):
        if where[b] is not None and out[b] > 0.5 and len(own) >= RUN:
            groups[tuple(own)].append(b)
    unique = [group[0] for group in groups.values() if len(group) == 1]
    spots = np.array([where[b] for b in unique], float)
    order = np.argsort(spots) if len(unique) else np.array([], int)
    for group in groups.values():
        if len(group) == 1:
            continue
        best = group[0]
        if len(unique):
            at = int(np.searchsorted(spots[order], where[group[0]]))
            near = [unique[order[min(max(at + step, 0), len(unique) - 1)]] for step in (-2, -1, 0, 1)]
            best = min(group, key=lambda b: float(np.median([abs(b - each) for each in near])))
        for b in group:
            if b != best:
                out[b], where[b] = 0.0, None
