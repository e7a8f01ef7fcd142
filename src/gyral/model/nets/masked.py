"""A masked autoencoder: an encoder that sees a quarter of the patches, a small decoder that paints the rest.

The decoder is thrown away; the encoder is what is wanted. At 75 % hidden a step costs a third of one over whole pictures.

Shapes: B rows, N patches, K of them kept, D width of the encoder, W of the decoder.

Source: He et al. 2022 (masked autoencoders), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gyral.model.nets import vit
from gyral.model.roles import Roles

ROLES = Roles(
    rules=(*vit.block_rules("encoder.blocks"), *vit.block_rules("decoder.blocks")),
    blocks="encoder.blocks",
    attention="encoder.blocks.*.attention",
)


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of the decoder."""

    width: int
    depth: int
    heads: int


class Decoder(nn.Module):
    """Vectors of the patches that were seen → numbers of all patches."""

    position: Tensor

    def __init__(self, encoder: vit.Shape, shape: DecoderShape) -> None:
        super().__init__()
        self.enter = nn.Linear(encoder.width, shape.width)
        self.hidden = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.register_buffer("position", vit.sine_positions(encoder.grid, shape.width)[None], persistent=False)
        self.blocks = vit.blocks_of(shape.depth, shape.width, shape.heads, 4 * shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.paint = nn.Linear(shape.width, encoder.channels * encoder.patch**2)
        self.apply(vit.initial)
        nn.init.normal_(self.hidden, std=0.02)

    def forward(self, x_BKD: Tensor, kept_BK: Tensor) -> Tensor:
        """Positions of `x_BKD` are the class token, then those of `kept_BK`; numbers of all patches, [B, N, C P P]."""
        x = self.enter(x_BKD)
        rows, num, width = x.shape[0], self.position.shape[1] - 1, x.shape[2]
        place = kept_BK[:, :, None].expand(-1, -1, width)
        all_patches = self.hidden.to(x.dtype).expand(rows, num, width).scatter(1, place, x[:, 1:])
        x = torch.cat([x[:, :1], all_patches], dim=1) + self.position
        for block in self.blocks.values():
            x = block(x)
        return self.paint(self.norm(x[:, 1:]))


class Autoencoder(nn.Module):
    """Encoder and decoder."""

    def __init__(self, encoder: vit.Shape, decoder: DecoderShape) -> None:
        super().__init__()
        self.encoder = vit.Vit(encoder)
        self.decoder = Decoder(encoder, decoder)

    def forward(self, pixels_BCSS: Tensor, kept_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of all patches as the decoder paints them, [B, N, C P P]; hidden states of class token and seen patches."""
        hidden_BKD = self.encoder(pixels_BCSS, kept_BK)
        return self.decoder(hidden_BKD, kept_BK), hidden_BKD
