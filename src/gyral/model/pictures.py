"""Pictures in memory: decoded once to uint8 squares, with their captions, and the concepts that both belong to.

A concept is what pictures and captions are of. Rows of a batch are concepts, one picture and one caption drawn from each, so no
caption in another language is a false negative; what is kept aside is kept by concept, chosen by a hash of its name, so it
stays aside when the dataset grows.

4,096 bytes a picture of 32 × 32 in grey, 12,288 in colour: a million pictures are 12 GB, which `MAX_BYTES` refuses. OpenCV
decodes outside of Python's lock, so threads help.

Shapes: N pictures, S side, C channels, M captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gyral.errors import InputError, MissingExtra

MAX_BYTES = 8 << 30
THREADS = 2


@dataclass(frozen=True)
class Pictures:
    """Pictures and captions of concepts.

    Attributes
    ----------
    pixels : uint8 [N, S, S, C], red first.
    ids : name of each picture, N.
    concept : of each picture, int64 [N] in [0, num_concepts), none without a picture.
    texts, languages : captions, M; a language is "" where nobody says.
    caption_concept : of each caption, int64 [M], ascending.
    """

    pixels: np.ndarray
    ids: Sequence[str]
    concept: np.ndarray
    texts: Sequence[str] = ()
    languages: Sequence[str] = ()
    caption_concept: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def num_concepts(self) -> int:
        return int(self.concept.max()) + 1 if len(self.concept) else 0

    @cached_property
    def _by_concept(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.concept, kind="stable")
        return order, np.searchsorted(self.concept[order], np.arange(self.num_concepts + 1))

    @cached_property
    def _captions_by_concept(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.caption_concept, kind="stable")
        return order, np.searchsorted(self.caption_concept[order], np.arange(self.num_concepts + 1))

    def of(self, concept: int) -> np.ndarray:
        """Numbers of a concept's pictures, one at least."""
        order, ends = self._by_concept
        return order[ends[concept] : ends[concept + 1]]

    def captions_of(self, concept: int) -> np.ndarray:
        """Numbers of a concept's captions."""
        order, ends = self._captions_by_concept
        return order[ends[concept] : ends[concept + 1]]

    def only(self, concepts: np.ndarray) -> Pictures:
        """Those of some concepts, numbered anew in the order given."""
        number = np.full(self.num_concepts, -1, np.int64)
        number[concepts] = np.arange(len(concepts))
        pictures = np.flatnonzero(number[self.concept] >= 0)
        captions = np.flatnonzero(number[self.caption_concept] >= 0)
        return Pictures(
            self.pixels[pictures],
            [self.ids[each] for each in pictures.tolist()],
            number[self.concept[pictures]],
            [self.texts[each] for each in captions.tolist()],
            [self.languages[each] for each in captions.tolist()],
            number[self.caption_concept[captions]],
        )


def kept_aside(names: Sequence[str], share: float) -> np.ndarray:
    """Which concepts are kept aside to measure on, bool: those whose names hash low; one at least, and never all."""
    low = np.array([int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") for name in names], np.uint64)
    aside = low.astype(np.float64) < share * 2.0**64
    if len(low) > 1 and not aside.any():
        aside[np.argmin(low)] = True
    if len(low) > 1 and aside.all():
        aside[np.argmax(low)] = False
    return aside


def decoded(raw: bytes, side: int, channels: int = 3) -> np.ndarray:
    """One picture as a square: uint8 [S, S, C], red first, alpha on white, the longer side cut at both ends.

    Raises
    ------
    InputError : it is no picture that can be decoded.
    """
    try:
        import cv2
    except ImportError:
        raise MissingExtra("cv2", "images", "decoding pictures") from None
    try:
        found: Any = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED) if raw else None
    except cv2.error:  # a header that announces more than OpenCV takes
        found = None
    if found is None:
        raise InputError("a picture cannot be decoded", why=f"{len(raw):,} bytes of no known form", hint="send PNG or JPEG")
    if found.dtype == np.uint16:
        found = (found >> 8).astype(np.uint8)
    if found.ndim == 2:
        found = found[:, :, None].repeat(3, axis=2)
    if found.shape[2] == 4:
        alpha = found[:, :, 3:].astype(np.float32) / 255
        found = (found[:, :, :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    height, width = found.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = found[top : top + short, left : left + short]
    way = cv2.INTER_AREA if short > side else cv2.INTER_LINEAR
    square = cv2.resize(np.ascontiguousarray(square), (side, side), interpolation=way)
    if channels == 1:
        return np.asarray(cv2.cvtColor(square, cv2.COLOR_BGR2GRAY))[:, :, None]
    return np.ascontiguousarray(square[:, :, ::-1])


def decode_all(raws: Iterable[bytes], count: int, side: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of many, by threads; uint8 [N, S, S, C], and whether each could be decoded, bool [N].

    Raises
    ------
    InputError : they do not fit into `MAX_BYTES`.
    """
    if (size := count * side * side * channels) > MAX_BYTES:
        hint = "a smaller `vision.side`, or curate fewer"
        raise InputError(
            f"{count:,} pictures of {side} × {side} take {size >> 30} GiB", why=f"{MAX_BYTES >> 30} at most", hint=hint
        )
    pixels, is_sound = np.zeros((count, side, side, channels), np.uint8), np.zeros(count, bool)

    def one(numbered: tuple[int, bytes]) -> None:
        number, raw = numbered
        try:
            pixels[number] = decoded(raw, side, channels)
            is_sound[number] = True
        except InputError:
            pass

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(one, enumerate(raws)):
            pass
    return pixels, is_sound
