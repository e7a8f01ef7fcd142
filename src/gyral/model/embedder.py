"""Trained vision models as functions: pictures → vectors, captions → vectors, whatever they were trained by.

Built anew from the settings stored with the weights. `tokens` gives the hidden states that a linear probe looks at.

Shapes: N pictures, M captions, E width of the vectors, T positions, D width of the tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.errors import InputError, UsageError
from gyral.model.augment import scaled
from gyral.model.card import Weights
from gyral.model.nets import captions, distilled, masked, towers, vit
from gyral.model.quant.linear import fill, installed
from gyral.model.quant.low_rank import SETTING, make_room
from gyral.model.quant.packing import divided

ROWS = 256
"""At once."""
GALLERY = "gallery"
"""Name of the array that holds the vectors of the dataset's pictures."""
DEFAULT_SCALE = 10.0
"""Of scores before they become shares, where a model has learned none."""


def scale_of(weights: Weights) -> float:
    """What scores are multiplied by before they become shares."""
    return float(np.exp(weights.arrays["scale"].reshape(-1)[0])) if "scale" in weights.arrays else DEFAULT_SCALE


def model_of(settings: dict[str, Any]) -> nn.Module:
    """The module that settings describe, with its initial values; linears that were factored are two thin ones.

    Raises
    ------
    InputError : they are of no task that is known.
    """
    return make_room(_plain(settings), settings.get(SETTING, {}))


def _plain(settings: dict[str, Any]) -> nn.Module:
    shape = vit.Shape(**settings["picture"])
    task = settings.get("task")
    if task == "contrastive":
        more = {name: settings.get(name, False) for name in ("joined", "alike")}
        return towers.Towers(shape, captions.Shape(**settings["caption"]), settings["width"], **more)
    if task == "masked":
        return masked.Autoencoder(shape, masked.DecoderShape(**settings["decoder"]))
    if task == "self_distilled":
        return distilled.StudentTeacher(shape, **settings["head"])
    raise InputError(f"a vision model of the task `{task}` is not known", hint="train it again with this version")


def tower_of(model: nn.Module) -> vit.Vit:
    """The part that sees pictures."""
    if isinstance(model, towers.Towers):
        return model.picture
    if isinstance(model, masked.Autoencoder):
        return model.encoder
    if isinstance(model, distilled.StudentTeacher):
        return model.teacher
    raise InputError(f"`{type(model).__name__}` sees no pictures")


class Embedder:
    """A model that answers."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self.tower = tower_of(model)
        self.shape = self.tower.shape

    @classmethod
    def of(cls, weights: Weights) -> Embedder:
        """From stored arrays."""
        model = model_of(weights.settings)
        arrays, packed = divided(weights)
        arrays.pop(GALLERY, None)
        if packed:
            arrays = installed(model, packed, arrays)
        fill(model, {name: torch.from_numpy(array) for name, array in arrays.items()})
        return cls(model)

    @property
    def knows_captions(self) -> bool:
        """Whether captions have vectors, too."""
        return isinstance(self.model, towers.Towers)

    @torch.no_grad()
    def pictures(self, pixels_NSSC: np.ndarray) -> np.ndarray:
        """Vectors of length one, float32 [N, E]."""
        return self._joined(self.vectors(scaled(pixels_NSSC[at : at + ROWS])) for at in range(0, len(pixels_NSSC), ROWS))

    def vectors(self, pixels_BCSS: Tensor) -> Tensor:
        """Vectors of length one of pixels in [−1, 1], [B, E]."""
        if isinstance(self.model, towers.Towers):
            return self.model.pictures(pixels_BCSS)
        hidden = self.tower(pixels_BCSS)
        vector = hidden[:, 0] if isinstance(self.model, distilled.StudentTeacher) else hidden[:, 1:].mean(dim=1)
        return F.normalize(vector, dim=-1)

    @torch.no_grad()
    def captions(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length one, float32 [M, E].

        Raises
        ------
        UsageError : the model was trained on pictures alone.
        """
        if not isinstance(self.model, towers.Towers):
            raise UsageError("this model knows no captions", hint="train one by `--set train.task=contrastive`")
        model, buckets = self.model, self.model.caption.shape.buckets
        parts = (texts[at : at + ROWS] for at in range(0, len(texts), ROWS))
        return self._joined(model.captions(captions.grams_of(part, buckets)) for part in parts)

    @torch.no_grad()
    def tokens(self, pixels_NSSC: np.ndarray, skip: int = 0) -> np.ndarray:
        """Hidden states after the last norm, float32 [N, T, D], class token first.

        Parameters
        ----------
        skip : leave out so many of the last blocks: what `masked` trained tells more one block before its last.

        Raises
        ------
        UsageError : the tower has no more blocks than that.
        """
        if not 0 <= skip < (depth := len(self.tower.blocks)):
            raise UsageError(f"{skip} of {depth} blocks cannot be left out", hint=f"leave out {depth - 1} at most")
        starts = range(0, len(pixels_NSSC), ROWS)
        return np.concatenate([self.tower(scaled(pixels_NSSC[at : at + ROWS]), skip=skip).numpy() for at in starts])

    @staticmethod
    def _joined(parts: Any) -> np.ndarray:
        found = [part.numpy() for part in parts]
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)
