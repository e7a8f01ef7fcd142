"""Two towers as an index: the vectors of all objects are made once, a request makes one of its subject.

Then an answer costs one small forward pass and a search instead of a pass over every object: at 1,682 objects the passes over
objects are nine tenths of a request. Scores are cosines; the model's own are log softmaxes of them, which a constant of the
request apart is the same.

Shapes: V objects, D width.
"""

from __future__ import annotations

import numpy as np
import torch

from gyral.model.nets.asked import Asked
from gyral.model.nets.two_tower import TwoTower
from gyral.model.neural_recommender import NeuralRecommender
from gyral.model.retrieving.index import Index


class Towers:
    """What a trained pair of towers finds.

    Parameters
    ----------
    version : of the model, which the index carries.
    """

    def __init__(self, model: NeuralRecommender, version: str, recall: float = 0.95) -> None:
        self._model = model
        self._net: TwoTower = model.net.eval()  # type: ignore[assignment]
        with torch.inference_mode():
            self.vectors_VD = self._net.of_objects(torch.arange(model.num_objects)).float().numpy()
        self.index = Index(recall=recall)
        self.index.build(self.vectors_VD, version)

    @torch.inference_mode()
    def of(self, subject: int, country: int, recent: np.ndarray | None = None) -> np.ndarray | None:
        """The vector of a subject, float32 [D]; None of one who has met nothing."""
        objects, times = self._model.met(subject, recent)
        if not len(objects):
            return None
        arrays = (np.array([subject]), np.array([country]), objects[None].astype(np.int64), times[None].astype(np.int64))
        who, where, met, at = (torch.from_numpy(each) for each in arrays)
        vector_1D = self._net.of_subjects(Asked(who, where, met, at, torch.tensor([len(objects)])))
        return np.asarray(vector_1D.float().numpy()[0])


def towers_of(model: object, version: str) -> Towers | None:
    """Those of a model that answers by towers alone; None of others."""
    is_alone = isinstance(model, NeuralRecommender) and isinstance(model.net, TwoTower) and not model.closed
    return Towers(model, version) if is_alone and isinstance(model, NeuralRecommender) else None
