"""A model of pictures and captions measured again, on the concepts that its training kept aside.

Calibration shows it `NUM` pictures that it was trained on and as many of their captions.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from gyral.errors import InputError
from gyral.lake.dataset import Dataset
from gyral.model import augment, picture_rows
from gyral.model.card import Weights
from gyral.model.embedder import GALLERY, Embedder, model_of, scale_of
from gyral.model.naming import Judged, judged
from gyral.model.nets import captions, vit
from gyral.model.quant.calibration import Calibration
from gyral.model.tasks.contrastive import Contrastive
from gyral.model.tasks.pictures import PICTURES
from gyral.model.vision_routes import LABEL

NUM, ROWS = 256, 64
ENGLISH = "en"


class VisionTwin:
    """How often the nearest picture of a caption is right, of any variant of the weights."""

    def __init__(self, data: Dataset, weights: Weights, seed: int) -> None:
        settings = weights.settings
        if settings.get("task") != "contrastive":
            why = f"it was trained by `{settings.get('task')}`, and only `contrastive` is measured again"
            raise InputError("the model cannot be compressed yet", why=why)
        self.weights, self._seed = weights, seed
        shape, caption = vit.Shape(**settings["picture"]), captions.Shape(**settings["caption"])
        by_name = settings.get("concept", "picture") == "name"
        known = picture_rows.read(data, shape.side, shape.channels, by_name=by_name, captioned=True)
        self._trained, self._held_out = picture_rows.split(known)
        held_out = self._held_out
        self._task = Contrastive(shape, caption, settings["width"], self._trained, held_out, augment.Recipe((1.0, 1.0)), seed)

    def measure(self, weights: Weights) -> float:
        """Its metric, by the net and the kernels that answer."""
        return float(self._task.evaluate(Embedder.of(weights).model)[self._task.metric])

    def judged(self, weights: Weights) -> Judged | None:
        """Pictures that were kept aside named as `POST /v1/label` names them, from all names of one language: English, where
        half of the pictures have a name in it, else the one that most have. None where nothing has a name."""
        names, truth, language = self._names
        if not names:
            return None
        embedder = Embedder.of(weights)
        shown = [at for at, known in enumerate(truth) if known]
        pictures, texts = embedder.pictures(self._held_out.pixels[shown]), embedder.captions(names)
        found = judged(pictures, texts, scale_of(weights), names, [truth[at] for at in shown])
        return Judged(*found, LABEL, {"language": language})

    @cached_property
    def _names(self) -> tuple[list[str], list[set[str]], str]:
        """Names that a server offers, those of each picture kept aside, and their language."""
        known = msgspec.json.decode(self._task.files()[PICTURES])["names"]
        aside = self._held_out
        told: dict[str, dict[int, set[str]]] = {}
        for concept, text, language in zip(aside.caption_concept.tolist(), aside.texts, aside.languages, strict=True):
            told.setdefault(language, {}).setdefault(concept, set()).add(text)
        if not told:
            return [], [], ""
        most = max(told, key=lambda language: (len(told[language]), language))
        language = ENGLISH if len(told.get(ENGLISH, ())) * 2 >= aside.num_concepts else most
        truth = [told[language].get(concept, set()) for concept in aside.concept.tolist()]
        return sorted(set(known[language].values())), truth, language

    def finish(self, weights: Weights) -> Weights:
        """With vectors of the dataset's pictures as this variant makes them: what is asked is compared with its own kind."""
        return self._task.finished(weights)

    def calibration(self) -> Calibration:
        """How to watch both towers."""
        random = np.random.default_rng(self._seed)
        pixels, texts = self._trained.pixels, self._trained.texts
        shown = np.sort(random.choice(len(pixels), min(NUM, len(pixels)), replace=False))
        told = np.sort(random.choice(len(texts), min(NUM, len(texts)), replace=False))
        feeds: list[Any] = []
        for at in range(0, len(shown), ROWS):
            feeds.append(_pictures(augment.scaled(pixels[shown[at : at + ROWS]])))
        for at in range(0, len(told), ROWS):
            each = [texts[number] for number in told[at : at + ROWS].tolist()]
            feeds.append(_captions(captions.grams_of(each, self._task.caption.buckets)))
        return Calibration(_build, feeds, ("picture.blocks", "caption.blocks"))


def _pictures(pixels: torch.Tensor) -> Any:
    return lambda model: model.pictures(pixels)


def _captions(grams: torch.Tensor) -> Any:
    return lambda model: model.captions(grams)


def _build(weights: Weights) -> nn.Module:
    """In float32, with values of its own."""
    model = model_of(weights.settings)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.arrays.items() if name != GALLERY})
    return model.eval()
