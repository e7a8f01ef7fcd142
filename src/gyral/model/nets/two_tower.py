"""Two towers: a vector for a subject and one for an object, near each other where they meet.

    subject  id + country + mean of the last T objects met → feed-forward → unit length
    object   id + mean of the words of its title          → feed-forward → unit length

Objects nobody met yet still have words. The vectors of all objects can be made before anybody asks.

Shapes: B rows, T positions, D width, V objects, W words of a title.

Source: Covington, Adams and Sargin, RecSys 2016 (a subject as the mean of what was met); Yi et al., RecSys 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.asked import Asked
from gyral.model.nets.dropout import RowDropout
from gyral.model.roles import Roles

NUM_WORDS = 1 << 13
"""Words are hashed into this many rows; 0 is no word."""
ROLES = Roles(
    rules=(
        ("subjects", "table"),
        ("objects", "table"),
        ("words", "table"),
        ("subject_up", "column"),
        ("subject_down", "row"),
        ("object_up", "column"),
        ("object_down", "row"),
    )
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `hidden` is the width inside each tower."""

    subjects: int
    countries: int
    objects: int
    width: int
    length: int
    hidden: int
    dropout: float = 0.0


class TwoTower(nn.Module):
    """Subjects and objects → vectors of unit length.

    Parameters
    ----------
    words_VW : hashed words of each object's title, int64; 0: none.
    """

    words_VW: Tensor

    def __init__(self, shape: Shape, words_VW: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.subjects = nn.Embedding(shape.subjects + 1, shape.width)
        self.countries = nn.Embedding(shape.countries + 1, shape.width)
        self.objects = nn.Embedding(shape.objects, shape.width)
        self.words = nn.Embedding(NUM_WORDS, shape.width)
        self.subject_up = nn.Linear(3 * shape.width, shape.hidden)
        self.subject_down = nn.Linear(shape.hidden, shape.width)
        self.object_up = nn.Linear(2 * shape.width, shape.hidden)
        self.object_down = nn.Linear(shape.hidden, shape.width)
        self.drop_subject, self.drop_object = RowDropout(shape.dropout, 0), RowDropout(shape.dropout, 1)
        self.register_buffer("words_VW", words_VW)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=shape.width**-0.5)

    def forward(
        self, subjects_B: Tensor, countries_B: Tensor, met_BT: Tensor, times_BT: Tensor, sizes_B: Tensor, objects_B: Tensor,
        keys_B: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Vectors of subjects, who had met some objects, and of the objects they met next, each [B, D]."""
        asked = Asked(subjects_B, countries_B, met_BT, times_BT, sizes_B)
        return self.of_subjects(asked, keys_B), self.of_objects(objects_B, keys_B)

    def of_subjects(self, asked: Asked, keys_B: Tensor | None = None) -> Tensor:
        """Vectors of subjects, [B, D]."""
        at = torch.arange(asked.objects.shape[1], device=asked.objects.device)
        there_BT1 = (at < asked.sizes[:, None])[..., None]
        mean_BD = (self.objects(asked.objects) * there_BT1).sum(1) / asked.sizes.clamp(min=1)[:, None]
        parts = [self.subjects(asked.subjects + 1), self.countries(asked.countries + 1), mean_BD]
        x_BF = self.drop_subject(torch.cat(parts, dim=-1), keys_B)
        x_BD = mean_BD + self.subject_down(F.relu(self.subject_up(x_BF)))
        return F.normalize(x_BD, dim=-1)

    def of_objects(self, objects_N: Tensor, keys_N: Tensor | None = None) -> Tensor:
        """Vectors of objects, [N, D]."""
        words_NW = self.words_VW[objects_N]
        has_word_NW1 = (words_NW > 0)[..., None]
        words_ND = (self.words(words_NW) * has_word_NW1).sum(1) / has_word_NW1.sum(1).clamp(min=1)
        own_ND = self.objects(objects_N)
        x_NF = self.drop_object(torch.cat([own_ND, words_ND], dim=-1), keys_N)
        return F.normalize(own_ND + self.object_down(F.relu(self.object_up(x_NF))), dim=-1)

    def score(self, asked: Asked) -> Tensor:
        """Cosine of each subject with every object, [B, V]."""
        everything = torch.arange(self.shape.objects, device=asked.objects.device)
        return self.of_subjects(asked) @ self.of_objects(everything).T
