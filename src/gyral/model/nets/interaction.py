"""Will this subject meet this object now? Ids, words and numbers, and how they meet: DCN-v2's cross layers, or DLRM's dots.

    dcn    x₀ = all vectors and numbers;  x ← x₀ ⊙ (W x + b) + x, some times;  beside it a feed-forward part
    dlrm   numbers → a vector;  dot products of every two vectors;  a feed-forward part over them

Words are what features say (`gyral.model.features`), hashed into the rows of one table; each is a vector beside those of ids.

Shapes: B rows, F numbers, C ids and words of a row, D width of a table, X width of x₀.

Source: Wang et al., DCN V2, WWW 2021, section 3 (parallel structure); Naumov et al., arXiv 1906.00091 (DLRM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.asked import Asked
from gyral.model.nets.dropout import RowDropout
from gyral.model.roles import Roles

ROLES = Roles(
    rules=(
        ("subjects", "table"),
        ("objects", "table"),
        ("words", "table"),
        ("deep.up", "column"),
        ("deep.down", "row"),
    )
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; `numbers` are the dense features, `hidden` the width inside feed-forward parts.

    `words` are the hashed features of a row, and `buckets` the rows they are hashed to.
    """

    subjects: int
    countries: int
    objects: int
    numbers: int
    width: int
    hidden: int
    length: int
    dropout: float = 0.0
    crosses: int = 2
    interaction: Literal["dcn", "dlrm"] = "dcn"
    words: int = 0
    buckets: int = 0


class Deep(nn.Module):
    """Two linear layers."""

    def __init__(self, given: int, hidden: int, gives: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(given, hidden), nn.Linear(hidden, gives)

    def forward(self, x_BF: Tensor) -> Tensor:
        return F.relu(self.down(F.relu(self.up(x_BF))))


class Interaction(nn.Module):
    """Subject, country, object and numbers → a logit."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.subjects = nn.Embedding(shape.subjects + 1, shape.width)
        self.countries = nn.Embedding(shape.countries + 1, shape.width)
        self.objects = nn.Embedding(shape.objects, shape.width)
        if shape.words:
            self.words = nn.Embedding(shape.buckets, shape.width)
        self.drop = RowDropout(shape.dropout, 0)
        num = 3 + shape.words
        if shape.interaction == "dcn":
            size = num * shape.width + shape.numbers
            self.crosses = nn.ModuleList([nn.Linear(size, size) for _ in range(shape.crosses)])
            self.deep = Deep(size, shape.hidden, shape.hidden)
            self.out = nn.Linear(size + shape.hidden, 1)
        else:
            self.bottom = Deep(shape.numbers, shape.hidden, shape.width)
            self.deep = Deep(shape.width + num * (num + 1) // 2, shape.hidden, shape.hidden)  # pairs of them and the numbers
            self.out = nn.Linear(shape.hidden, 1)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.05)

    def forward(
        self, subjects_B: Tensor, countries_B: Tensor, objects_B: Tensor, numbers_BF: Tensor, keys_B: Tensor | None = None,
        words_BC: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits, [B]; subjects and countries may be −1."""
        x_BCD = torch.stack((self.subjects(subjects_B + 1), self.countries(countries_B + 1), self.objects(objects_B)), dim=1)
        if words_BC is not None and self.shape.words:
            x_BCD = torch.cat([x_BCD, self.words(words_BC)], dim=1)
        x_BCD = self.drop(x_BCD, keys_B)
        if self.shape.interaction == "dcn":
            return self._crossed(torch.cat([x_BCD.flatten(1), numbers_BF], dim=-1))
        bottom_BD = self.bottom(numbers_BF)
        all_BCD = torch.cat([bottom_BD[:, None], x_BCD], dim=1)
        num = all_BCD.shape[1]
        one, other = torch.triu_indices(num, num, offset=1, device=all_BCD.device)
        dots = (all_BCD[:, one] * all_BCD[:, other]).sum(-1)
        return self.out(self.deep(torch.cat([bottom_BD, dots], dim=-1))).squeeze(-1)

    def _crossed(self, first_BX: Tensor) -> Tensor:
        x_BX = first_BX
        for cross in self.crosses:
            x_BX = first_BX * cross(x_BX) + x_BX
        return self.out(torch.cat([x_BX, self.deep(first_BX)], dim=-1)).squeeze(-1)

    def score(self, asked: Asked) -> Tensor:
        """Logits of each subject with every object, [B, V]."""
        rows, size = len(asked.subjects), self.shape.objects
        everything = torch.arange(size, device=asked.subjects.device).repeat(rows)
        subjects, countries = (each.repeat_interleave(size) for each in (asked.subjects, asked.countries))
        numbers = asked.counted
        if numbers is None:
            numbers = torch.zeros(rows, size, self.shape.numbers)
        words = None if asked.words is None else asked.words.flatten(0, 1)
        return self(subjects, countries, everything, numbers.flatten(0, 1), None, words).view(rows, size)
