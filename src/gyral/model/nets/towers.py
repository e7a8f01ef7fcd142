"""Two towers, pictures and captions, that meet in one space.

A picture's vector is a product with the mean of its patches, or with all of them one after the other (`joined`): the mean
forgets where things are, which small pictures of one thing in the middle are known by. Joined patches cost N D E numbers (a
million at 64 patches of width 128) and next to no time.

Shapes: B rows, E width of the common space, N patches, D width of the tower.

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
    """Pictures and captions → unit vectors of one space, and the scale and bias of their products.

    Parameters
    ----------
    bias : initial value, also of what a product of equal pictures gets.
    joined : a picture's vector is made of all its patches and not of their mean.
    alike : there are a scale and a bias for products of two pictures as well.
    """

    def __init__(
        self,
        picture: vit.Shape,
        caption: captions.Shape,
        width: int,
        bias: float = 0.0,
        joined: bool = False,
        alike: bool = False,
    ) -> None:
        super().__init__()
        self.joined = joined
        self.picture = vit.Vit(picture)
        self.caption = captions.Captions(caption)
        self.of_picture = nn.Linear(picture.width * (picture.num_patches if joined else 1), width, bias=False)
        self.of_caption = nn.Linear(caption.width, width, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(bias))
        if alike:
            self.alike_scale = nn.Parameter(torch.tensor(math.log(10.0)))
            self.alike_bias = nn.Parameter(torch.tensor(bias - 10.0 if bias else 0.0))  # at first all pictures are alike
        self.of_picture.apply(vit.initial)
        self.of_caption.apply(vit.initial)

    def forward(self, pixels_BCSS: Tensor, grams_BTG: Tensor) -> tuple[Tensor, ...]:
        """Vectors of pictures and captions [B, E] of length one, log of the scale, bias; then those of pictures alike."""
        found = (self.pictures(pixels_BCSS), self.captions(grams_BTG), self.scale, self.bias)
        return (*found, self.alike_scale, self.alike_bias) if hasattr(self, "alike_scale") else found

    def pictures(self, pixels_BCSS: Tensor) -> Tensor:
        """Vectors of pictures."""
        patches_BND = self.picture(pixels_BCSS)[:, 1:]
        return F.normalize(self.of_picture(patches_BND.flatten(1) if self.joined else patches_BND.mean(dim=1)), dim=-1)

    def captions(self, grams_BTG: Tensor) -> Tensor:
        """Vectors of captions."""
        return F.normalize(self.of_caption(self.caption(grams_BTG)), dim=-1)
