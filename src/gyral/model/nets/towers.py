"""Two towers, pictures and captions, that meet in one space.

Shapes: B rows, E width of the common space.

Source: Radford et al. 2021 (CLIP); Zhai et al. 2023 (SigLIP: the log of the scale begins at log 10).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets import captions, vit
from gyral.model.roles import Roles

ROLES = Roles(
    rules=(
        *vit.block_rules("picture.blocks"),
        *vit.block_rules("caption.blocks"),
    ),
    blocks="picture.blocks",
    attention="picture.blocks.*.attention",
)


class Towers(nn.Module):
    """Pictures and captions → unit vectors of one space, and the scale and bias of their products."""

    def __init__(self, picture: vit.Shape, caption: captions.Shape, width: int, bias: float = 0.0) -> None:
        super().__init__()
        self.picture = vit.Vit(picture)
        self.caption = captions.Captions(caption)
        self.of_picture = nn.Linear(picture.width, width, bias=False)
        self.of_caption = nn.Linear(caption.width, width, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(bias))
        self.of_picture.apply(vit.initial)
        self.of_caption.apply(vit.initial)

    def forward(self, pixels_BCSS: Tensor, grams_BTG: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors of pictures and captions [B, E] of length one, log of the scale, bias."""
        return self.pictures(pixels_BCSS), self.captions(grams_BTG), self.scale, self.bias

    def pictures(self, pixels_BCSS: Tensor) -> Tensor:
        """Vectors of pictures: the mean of their patches."""
        return F.normalize(self.of_picture(self.picture(pixels_BCSS)[:, 1:].mean(dim=1)), dim=-1)

    def captions(self, grams_BTG: Tensor) -> Tensor:
        """Vectors of captions."""
        return F.normalize(self.of_caption(self.caption(grams_BTG)), dim=-1)
