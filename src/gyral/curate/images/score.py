"""Stage `score`: how well a caption fits its picture, told by an encoder of the user's or one that gyral trained.

An encoder is a function, `module:function`, of pictures (red, green, blue: uint8 [height, width, 3], each of its own size) and
their captions, that gives a number a pair: the higher, the better they fit. It sees some at once, so it may batch as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from gyral import plugins
from gyral.config import Config
from gyral.curate.images.headers import Unusable, read_header
from gyral.curate.images.pixels import decode
from gyral.curate.stage import Limit, Stage, add, numbers
from gyral.errors import ConfigError

Encoder = Callable[[list[np.ndarray], list[str]], np.ndarray]
COLUMN = "image_text_score"


@dataclass(frozen=True)
class Score(Stage):
    """Adds `image_text_score`, float32; null where there is no picture or caption, or the encoder gives no finite number.

    Attributes
    ----------
    encoder : `module:function`.
    side : pixels that the short side of a picture keeps when it is decoded to less than its size.
    pairs : at most as many are given to the encoder at once.
    max_pixels : pictures of more are not decoded.
    """

    name: ClassVar[str] = "score"
    version: ClassVar[int] = 1

    encoder: str = ""
    side: int = 224
    pairs: int = 64
    max_pixels: int = 64_000_000

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        encode = plugins.load(self.encoder, "images.encoder")
        scores = np.full(batch.num_rows, np.nan, np.float32)
        rejected, media = batch.column("rejected").to_pylist(), batch.column("media").to_pylist()
        texts, raws = batch.column("text").to_pylist(), batch.column("raw")
        rows: list[int] = []
        pictures: list[np.ndarray] = []
        last: tuple[bytes, np.ndarray | None] = (b"", None)
        for row, text in enumerate(texts):
            if rejected[row] is not None or media[row] != "image" or not text or not raws[row].is_valid:
                continue
            raw = raws[row].as_py()
            if raw != last[0]:  # captions of one picture follow each other
                last = (raw, self._decoded(raw))
            if last[1] is not None:
                rows.append(row)
                pictures.append(last[1])
            if len(rows) == self.pairs:
                scores[rows] = self._scored(encode, pictures, [texts[row] for row in rows])
                rows, pictures = [], []
        if rows:
            scores[rows] = self._scored(encode, pictures, [texts[row] for row in rows])
        return add(batch, {COLUMN: pa.array(scores, pa.float32(), mask=~np.isfinite(scores))})

    def limits(self, config: Config) -> Sequence[Limit]:
        least = config.images.min_score
        if least is None:
            return ()
        return (Limit("image_text_apart", "images.min_score", (COLUMN,), lambda columns: numbers(columns, COLUMN), "<", least),)

    def _decoded(self, raw: bytes) -> np.ndarray | None:
        try:
            header = read_header(raw)
            if header.width * header.height > self.max_pixels:
                return None
            return np.ascontiguousarray(decode(raw, header, self.side)[:, :, ::-1])
        except Unusable:
            return None

    def _scored(self, encode: Encoder, pictures: list[np.ndarray], captions: list[str]) -> np.ndarray:
        scores = np.asarray(encode(pictures, captions), np.float32)
        if scores.shape != (len(pictures),):
            raise ConfigError(
                f"the encoder `{self.encoder}` gave scores of shape {scores.shape} for {len(pictures)} pairs",
                where="images.encoder",
                hint="it must return one number a pair",
            )
        return scores
