"""Dropout that is a function of the row: which rank or micro-batch computes a row changes nothing of what is dropped.

torch's own dropout draws from one generator for whatever a process holds, so two ranks would drop other elements than one. Here
each element's draw is a hash of (key of the row, place of the layer, place in the row); the key is a function of (seed, step,
example). One hash of 64 bits gives four draws of 16 bits: about six passes over the tensor, 3 % of a step of a small model.

Source: the mixing is splitmix64 (Steele, Lea and Flood 2014); counter-based draws are Salmon et al. 2011.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gyral.lake.order import scatter

DRAWS = 1 << 16
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


class RowDropout(nn.Module):
    """Drop a share of the elements of each row, and scale the others up; nothing in evaluation.

    Parameters
    ----------
    share : of elements that are dropped, [0, 1).
    site : tells layers of one model apart.
    width : of a whole row, where ranks of a tensor axis have some columns each (what a `column` gives); 0: rows are whole.

    Attributes
    ----------
    first : this rank's first column.
    """

    def __init__(self, share: float, site: int, width: int = 0) -> None:
        super().__init__()
        self.share, self.site, self.width, self.first = share, site, width, 0

    def forward(self, x_B: Tensor, keys_B: Tensor | None) -> Tensor:
        """Rows [B, …] and their keys, int64 [B]; None: nothing is dropped."""
        if not self.training or self.share == 0.0 or keys_B is None:
            return x_B
        own = x_B.shape[-1]
        mask_B = kept(keys_B, self.site, (*x_B.shape[1:-1], self.width or own), self.share)
        return x_B * mask_B[..., self.first : self.first + own]


def kept(keys_B: Tensor, site: int, shape: torch.Size | tuple[int, ...], share: float) -> Tensor:
    """Factor of each element, [B, …]: 0 where it is dropped, 1 / (1 − share) elsewhere."""
    size = int(np.prod(shape))
    places = torch.arange(-(-size // 4), device=keys_B.device) * _GOLDEN
    hashed = _mixed(_mixed(keys_B + site)[:, None] + places)
    draws = hashed.view(torch.int16)[:, :size].reshape(len(keys_B), *shape)
    return (draws >= int(share * DRAWS) - DRAWS // 2).to(torch.float32) / (1 - share)


def row_keys(seed: int, step: int, examples: np.ndarray) -> Tensor:
    """Keys of the rows of a step, int64 [B]."""
    return torch.from_numpy(scatter(scatter(examples, seed), step).view(np.int64))


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _FIRST
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
