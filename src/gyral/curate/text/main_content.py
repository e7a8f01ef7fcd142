"""Main content of web pages: a streaming tokenizer, two small forests over blocks of text, no parser's tree.

Others build a DOM and walk it with rules. Here a page is read once by compiled code into blocks of text with the elements
around them; about eighty numbers describe a block; a forest scores it, a second one corrects the scores by those around; the
blocks above `threshold` are the text. Numbers against others are in `benchmarks/README.md`; the weights were learned by
`benchmarks/curate/train_extractor.py`, and `main_content.json` says from which pages and under what terms.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from gyral.errors import InputError

MOST_BYTES = 64 << 20
"""A larger page is refused."""
_WEIGHTS = "main_content"


@dataclass(frozen=True)
class Forest:
    """Trees as arrays, the form that `main_content_kernel.score` takes."""

    roots: np.ndarray
    features: np.ndarray
    thresholds: np.ndarray
    children: np.ndarray
    leaves: np.ndarray


@dataclass(frozen=True)
class Weights:
    """What was learned: log-odds of words of attributes and of text, both forests, and from what (`card`)."""

    attribute_odds: np.ndarray
    word_odds: np.ndarray
    first: Forest
    second: Forest
    card: dict[str, Any]


@cache
def weights() -> Weights:
    """The weights that come with the package; about 150 kB, read once."""
    folder = files(__package__)
    with folder.joinpath(f"{_WEIGHTS}.npz").open("rb") as file:
        arrays = dict(np.load(file, allow_pickle=False))
    card = json.loads(folder.joinpath(f"{_WEIGHTS}.json").read_text())
    first, second = (
        Forest(*(arrays[f"{name}_{part}"] for part in ("roots", "features", "thresholds", "children", "leaves")))
        for name in ("first", "second")
    )
    return Weights(arrays["attribute_odds"], arrays["word_odds"], first, second, card)


class MainContent:
    """Extracts the main content of pages; one object serves any number of threads, each with its own room to work in.

    Parameters
    ----------
    threshold : a block is content from this probability on; lower keeps more.
    titles : keep headings of the first level that repeat the page's title.
    """

    def __init__(self, threshold: float | None = None, titles: bool = False) -> None:
        self._weights = weights()
        self.threshold = float(self._weights.card["threshold"]) if threshold is None else threshold
        self.titles = titles
        self._local = threading.local()

    def extract(self, html: bytes, charset: str = "utf-8") -> str:
        """Text of the main content, paragraphs parted by a blank line; "" where a page has none.

        Raises
        ------
        InputError : the page has more than `MOST_BYTES`, or no such charset is known.
        """
        if charset.lower().replace("_", "-") not in ("utf-8", "utf8", "ascii", "us-ascii"):
            try:
                html = html.decode(charset, "replace").encode("utf-8", "replace")
            except LookupError as error:
                raise InputError(f"`{charset}` is no charset", hint="name it as Python does, `cp1252`") from error
        if len(html) > MOST_BYTES:
            raise InputError(f"a page of {len(html):,} bytes is too large", why=f"at most {MOST_BYTES:,} are read")
        return self._extract(html).decode("utf-8", "replace")

    def _extract(self, html: bytes) -> bytes:
        from gyral.curate.text.block_features_kernel import describe
        from gyral.curate.text.blocks_kernel import scan
        from gyral.curate.text.main_content_kernel import FLOOR, choose, join, look_around, score

        data = np.frombuffer(html, np.uint8)
        room = self._room(len(data))
        num_nodes, num_blocks, *title = scan(data, room.text, room.nodes, room.blocks, room.tokens)
        if not num_blocks:
            return b""
        known = self._weights
        rows, sums, scores = room.for_blocks(num_blocks), room.for_nodes(num_nodes), np.zeros(num_blocks, np.float32)
        describe(
            data, tuple(title), room.text, room.nodes, num_nodes, room.blocks, num_blocks, room.tokens,
            known.attribute_odds, known.word_odds, rows, sums,
        )  # fmt: skip
        for number, forest in enumerate((known.first, known.second)):
            if number:
                look_around(room.nodes, num_nodes, room.blocks, num_blocks, scores, rows)
            arrays = forest.roots, forest.features, forest.thresholds, forest.children, forest.leaves
            score(rows, num_blocks, *arrays, FLOOR if number else 0.0, scores)
        is_kept = choose(rows, scores, num_blocks, self.threshold, self.titles)
        out = np.empty(int(room.blocks[num_blocks - 1, 1]) + 2 * num_blocks, np.uint8)
        return out[: join(room.text, room.nodes, room.blocks, num_blocks, is_kept, out)].tobytes()

    def _room(self, num_bytes: int) -> _Room:
        room: _Room | None = getattr(self._local, "room", None)
        if room is None or len(room.text) < num_bytes + 8:
            room = self._local.room = _Room(num_bytes)
        return room


class _Room:
    """Arrays that pages are worked on in; they grow with the largest page, and what is not touched takes no memory."""

    def __init__(self, num_bytes: int) -> None:
        from gyral.curate.text.blocks_kernel import MOST_BLOCKS, MOST_NODES, MOST_TOKENS
        from gyral.curate.text.main_content_kernel import NUM_ALL

        self._columns = NUM_ALL
        size = max(2 * num_bytes, 1 << 20)
        self.text = np.zeros(size + 8, np.uint8)
        self.nodes = np.zeros((min(MOST_NODES, size // 3 + 2), 4), np.int32)
        self.blocks = np.zeros((min(MOST_BLOCKS, size // 3 + 2), 6), np.int32)
        self.tokens = np.zeros(MOST_TOKENS, np.uint16)
        self._rows = np.zeros((4096, NUM_ALL), np.float32)
        self._sums = np.zeros((8192, 7), np.int64)

    def for_blocks(self, count: int) -> np.ndarray:
        return self._rows if count <= len(self._rows) else np.zeros((count, self._columns), np.float32)

    def for_nodes(self, count: int) -> np.ndarray:
        return self._sums if count <= len(self._sums) else np.zeros((count, 7), np.int64)
