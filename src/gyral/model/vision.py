"""The family `vision`: how a model of pictures is stored, loaded and asked.

The vectors of the dataset's pictures lie with the weights, so a search is one small forward pass and one product, or an index
asked once.
 Names of pictures by language are beside them in `pictures.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gyral.errors import InputError, UsageError
from gyral.lake.dataset import Dataset
from gyral.model import card as cards
from gyral.model.embedder import GALLERY, Embedder, scale_of
from gyral.model.family import Trial
from gyral.model.pictures import decoded
from gyral.model.portable import Portable
from gyral.model.retrieving.index import CELLS_FROM, Index
from gyral.model.tasks.pictures import PICTURES
from gyral.model.vision_routes import routes_of
from gyral.model.vision_twin import VisionTwin

MOST_ANSWERS = 1_000
INDEX_FROM = 1_000
"""Pictures from which an index is asked and not all of them: 31 µs of CPU instead of 49 for one search of 1,000 × 128, 0.13 ms
instead of 1.6 of 20,000, 0.3 instead of 20 of 200,000 (below 500 all are faster). Up to `CELLS_FROM` it finds all; above, the
share that is measured by captions, since what is searched for is words."""
TUNING = 1_500
"""Captions by which cells are tuned, at most."""


class Known(msgspec.Struct, frozen=True):
    """What `pictures.json` holds: names of pictures in the order of the gallery, captions by language and number."""

    ids: list[str] = []
    names: dict[str, dict[str, str]] = {}


class Picture(msgspec.Struct, frozen=True, omit_defaults=True):
    """A picture found; scores compare inside one answer only."""

    id: str
    score: float
    name: str = ""


class Name(msgspec.Struct, frozen=True):
    """A name of what is on a picture."""

    text: str
    score: float


class ServableVision:
    """A model of pictures, and of captions where it was trained by them. Answers are ranked, best first."""

    def __init__(self, folder: Path) -> None:
        card = cards.read_card(folder)
        self.name = card.model
        self.card: dict[str, Any] = msgspec.to_builtins(card)
        weights = cards.read_weights(folder)
        try:
            self.embedder = Embedder.of(weights)
            self.known = msgspec.json.decode((folder / PICTURES).read_bytes(), type=Known)
            self.gallery = weights.arrays[GALLERY]
            self.scale = scale_of(weights)
            if len(self.gallery) != len(self.known.ids):
                raise ValueError(f"{len(self.gallery)} vectors and {len(self.known.ids)} names")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            hint = "train the model again"
            raise InputError(f"`{folder.name}` is no vision model", why=str(error), where=str(folder), hint=hint) from None
        self._names: dict[str, tuple[list[str], np.ndarray]] = {}
        self.index = self._indexed()
        if self.index is not None:
            self.card["index"] = self.index.card
        self.routes = routes_of(self, best, self.index)

    def _indexed(self) -> Index | None:
        """Of the gallery, where it is large."""
        if len(self.gallery) < INDEX_FROM:
            return None
        index, asked = Index(), None
        texts = sorted({text for names in self.known.names.values() for text in names.values()})
        if len(self.gallery) >= CELLS_FROM and self.embedder.knows_captions and len(texts) >= TUNING // 10:
            drawn = np.random.default_rng(0).permutation(len(texts))[:TUNING]
            asked = self.embed_texts([texts[at] for at in drawn.tolist()])
        index.build(self.gallery, self.name, queries_BD=asked)
        return index

    @property
    def objects(self) -> list[str]:
        """Names of the dataset's pictures, in the order of the gallery."""
        return self.known.ids

    def name_of(self, place: int, language: str) -> str:
        """What a picture of the dataset is called in a language, empty where it has no name there."""
        return self.known.names.get(language, {}).get(str(place), "")

    def search(self, text: str, k: int = 10, lang: str = "") -> list[Picture]:
        """Pictures of the dataset that a text, in any language, is about; their names in `lang` where they have some."""
        return self._nearest(self.embed_texts([text]), k, lang)

    def similar(self, raw: bytes, k: int = 10, lang: str = "") -> list[Picture]:
        """Pictures of the dataset that look like one.

        Raises
        ------
        InputError : it cannot be decoded.
        """
        return self._nearest(self.embed_images([raw]), k, lang)

    def tell(self, raw: bytes, k: int = 10, lang: str = "en") -> list[Name]:
        """Names, of all that the dataset has in a language, that fit a picture.

        Raises
        ------
        InputError : it cannot be decoded.  UsageError : there are no names in this language.
        """
        texts, vectors = self.named(lang)
        scores = (self.embed_images([raw]) @ vectors.T)[0]
        return [Name(texts[at], round(float(scores[at]), 6)) for at in best(scores, k)]

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Vectors of length one, float32 [M, E]."""
        return self.embedder.captions(texts)

    def embed_images(self, raws: list[bytes]) -> np.ndarray:
        """Vectors of length one, float32 [N, E]."""
        shape = self.embedder.shape
        return self.embedder.pictures(np.stack([decoded(raw, shape.side, shape.channels) for raw in raws]))

    def warm(self) -> None:
        """Run once, so that no request pays for it."""
        shape = self.embedder.shape
        self.embedder.pictures(np.zeros((1, shape.side, shape.side, shape.channels), np.uint8))
        if self.embedder.knows_captions:
            self.search("", 1)

    def _nearest(self, vector_1E: np.ndarray, k: int, lang: str) -> list[Picture]:
        names = self.known.names.get(lang, {})
        if self.index is not None and k > 0:
            near = self.index.search(vector_1E, min(k, MOST_ANSWERS))
            there = near.ids_Bk[0] >= 0
            pairs = list(zip(near.ids_Bk[0, there].tolist(), near.scores_Bk[0, there].tolist(), strict=True))
        else:
            scores = (vector_1E @ self.gallery.T)[0]
            pairs = [(at, float(scores[at])) for at in best(scores, k)]
        return [Picture(self.known.ids[at], round(score, 6), names.get(str(at), "")) for at, score in pairs]

    def named(self, lang: str) -> tuple[list[str], np.ndarray]:
        """All names in a language, and their vectors, float32 [M, E].

        Raises
        ------
        UsageError : there are none.
        """
        if lang not in self._names:
            texts = sorted(set(self.known.names.get(lang, {}).values()))
            if not texts:
                some = ", ".join(sorted(self.known.names)[:10])
                raise UsageError(f"the dataset has no names in `{lang}`", hint=f"it has some in {some}" if some else "")
            self._names[lang] = texts, self.embed_texts(texts)
        return self._names[lang]


def best(scores_N: np.ndarray, k: int) -> list[int]:
    """Numbers of the k largest, best first, of equals the first."""
    k = max(0, min(k, len(scores_N), MOST_ANSWERS))
    order: list[int] = np.argsort(-scores_N, kind="stable")[:k].tolist()
    return order


class VisionFamily:
    """What is on a picture."""

    name = "vision"
    metric = "r_at_1"
    matrices = (
        "*blocks.*.attention.*.weight", "*blocks.*.feed.*.weight", "of_picture.weight", "of_caption.weight",
        "caption.embed.weight",
    )  # fmt: skip

    tried = ("bf16", "int8", "int4", "prune-0.25", "prune-0.25+int8", "2:4+int8", "rank-0.7+int8")

    def trial(self, servable: ServableVision) -> Trial:
        """Pictures of noise."""
        shape = servable.embedder.shape
        sizes = (8, shape.side, shape.side, shape.channels)
        shown = np.random.default_rng(0).integers(0, 256, sizes, dtype=np.uint8)
        return Trial(
            lambda size: servable.embedder.pictures(shown[:size]), lambda: len(servable.embedder.pictures(shown)), "pictures"
        )

    def load(self, folder: Path) -> ServableVision:
        """Read a model folder."""
        return ServableVision(folder)

    def twin(self, data: Dataset, weights: cards.Weights, seed: int, folder: Path) -> VisionTwin:
        """The model itself: it has not learned the concepts that were kept aside."""
        return VisionTwin(data, weights, seed)

    def erase(self, folder: Path, subject: str) -> bool:
        """It holds nobody's name."""
        return False

    def portable(self, folder: Path) -> Portable:
        """All of it."""
        return Portable({}, ("torch",))


VISION = VisionFamily()
