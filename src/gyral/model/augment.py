"""Views of pictures: crop, flip, colour, grey, blur and solarize, each row by numbers drawn from its own generator.

What is drawn is a few numbers a row; what is computed is done for a whole batch by torch, row by row alike, so a row is the
same whoever computes it and whatever stands beside it. torchvision is not used: its build
breaks the operators of torch for the CPU.

Shapes: B rows, S side, C channels.

Source: the recipes are those of He et al. 2022 (crop and flip), Grill et al. 2020 and Caron et al. 2021 (the rest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Recipe:
    """What happens to a picture on the way to a view.

    Attributes
    ----------
    scale : smallest and largest share of the area that a crop has; (1, 1): the whole.
    ratio : largest width by height of a crop, and the other way round.
    flip, jitter, grey, blur, solarize : how probable each is.
    strength : of jitter: brightness, contrast and saturation are changed by up to this factor.
    margin : pixels outside of the picture that a crop may reach to, as share of its side; they repeat the border.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: float = 4 / 3
    flip: float = 0.0
    jitter: float = 0.0
    strength: float = 0.4
    grey: float = 0.0
    blur: float = 0.0
    solarize: float = 0.0
    margin: float = 0.0


PLAIN = Recipe(scale=(1.0, 1.0), ratio=1.0)


def scaled(pixels_BSSC: np.ndarray) -> Tensor:
    """Pixels as a network takes them: float32 [B, C, S, S] in [−1, 1]."""
    return torch.from_numpy(pixels_BSSC.astype(np.float32)).permute(0, 3, 1, 2).contiguous().div_(127.5).sub_(1)


def views(pixels_BSSC: np.ndarray, generators: Sequence[np.random.Generator], recipe: Recipe, side: int) -> Tensor:
    """One view of each picture, float32 [B, C, side, side] in about [−1, 1].

    Parameters
    ----------
    generators : one a row; each is moved on by the same number of draws.
    """
    drawn = torch.from_numpy(np.stack([generator.random(13) for generator in generators]))
    x = scaled(pixels_BSSC)
    theta = crops(drawn[:, :5], recipe).float()
    grid = F.affine_grid(theta, [len(x), x.shape[1], side, side], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if recipe.jitter:
        x = _jittered(x, drawn[:, 5:9].float(), recipe)
    if recipe.grey and x.shape[1] == 3:
        x = _where(drawn[:, 9] < recipe.grey, luma(x).expand_as(x), x)
    if recipe.blur:
        x = _where(drawn[:, 10] < recipe.blur, _blurred(x, 0.1 + 1.4 * drawn[:, 11].float()), x)
    if recipe.solarize:
        x = _where(drawn[:, 12] < recipe.solarize, torch.where(x > 0, -x, x), x)
    return x


def crops(drawn_B5: Tensor, recipe: Recipe) -> Tensor:
    """Affine maps [B, 2, 3] of crops, from numbers in [0, 1): area, ratio, two of the place, flip."""
    low, high = recipe.scale
    area = low + (high - low) * drawn_B5[:, 0]
    ratio = torch.exp((2 * drawn_B5[:, 1] - 1) * float(np.log(recipe.ratio)))
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    free_x, free_y = 1 - width + recipe.margin, 1 - height + recipe.margin
    x, y = (2 * drawn_B5[:, 2] - 1) * free_x, (2 * drawn_B5[:, 3] - 1) * free_y
    sign = torch.where(drawn_B5[:, 4] < recipe.flip, -1.0, 1.0)
    zero = torch.zeros_like(x)
    return torch.stack([torch.stack([width * sign, zero, x], dim=1), torch.stack([zero, height, y], dim=1)], dim=1)


def luma(x_BCSS: Tensor) -> Tensor:
    """Brightness of each pixel, [B, 1, S, S]."""
    if x_BCSS.shape[1] == 1:
        return x_BCSS
    return (x_BCSS * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _jittered(x: Tensor, drawn_B4: Tensor, recipe: Recipe) -> Tensor:
    """Brightness, contrast, saturation, in this order; the last draw says whether at all."""
    brightness, contrast, saturation = (1 + recipe.strength * (2 * drawn_B4[:, :3] - 1)).T.reshape(3, -1, 1, 1, 1)
    changed = (x + 1) * brightness - 1
    mean = luma(changed).mean(dim=(1, 2, 3), keepdim=True)
    changed = mean + (changed - mean) * contrast
    if x.shape[1] == 3:
        grey = luma(changed)
        changed = grey + (changed - grey) * saturation
    return _where(drawn_B4[:, 3] < recipe.jitter, changed.clamp(-1, 1), x)


def _blurred(x: Tensor, sigma_B: Tensor) -> Tensor:
    """Gaussian of five taps a side, each row its own deviation in pixels."""
    taps = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / sigma_B[:, None]) ** 2)
    taps = (taps / taps.sum(dim=1, keepdim=True)).repeat_interleave(x.shape[1], dim=0)
    rows, channels, height, width = x.shape
    flat = F.pad(x, (2, 2, 2, 2), mode="replicate").reshape(1, rows * channels, height + 4, width + 4)
    flat = F.conv2d(flat, taps[:, None, :, None], groups=rows * channels)
    return F.conv2d(flat, taps[:, None, None, :], groups=rows * channels).reshape(rows, channels, height, width)


def _where(chosen_B: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen_B.view(-1, 1, 1, 1), changed, x)
