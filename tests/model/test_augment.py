"""Views: each row by itself, and what each change is, against numpy and OpenCV."""

import cv2
import numpy as np
import torch

from gyral.model.augment import PLAIN, Recipe, crops, luma, scaled, views
from gyral.model.task import row_generator

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
EVERYTHING = Recipe((0.3, 1.0), flip=0.5, jitter=0.8, grey=0.3, blur=0.5, solarize=0.3, margin=0.1)


def generators(rows):
    return [row_generator(3, 7, row) for row in rows]


def test_a_row_is_the_same_whoever_computes_it():
    whole = views(PIXELS, generators(range(6)), EVERYTHING, 16)
    for part in ([0, 1, 2], [3, 4, 5], [5], [4, 2]):
        assert torch.allclose(views(PIXELS[part], generators(part), EVERYTHING, 16), whole[part], atol=1e-6)
    assert not torch.allclose(views(PIXELS, [row_generator(3, 8, row) for row in range(6)], EVERYTHING, 16), whole, atol=0.1)
    assert whole.abs().max() <= 1 + 1e-5


def test_the_plain_recipe_changes_nothing():
    assert torch.allclose(views(PIXELS, generators(range(6)), PLAIN, 16), scaled(PIXELS), atol=1e-5)


def test_a_flip_is_a_mirror():
    flipped = views(PIXELS, generators(range(6)), Recipe((1.0, 1.0), 1.0, flip=1.0), 16)
    assert torch.allclose(flipped, scaled(np.ascontiguousarray(PIXELS[:, :, ::-1])), atol=1e-5)


def test_crops_have_the_area_asked_for_and_stay_inside():
    drawn = torch.from_numpy(RANDOM.random((500, 5)))
    maps = crops(drawn, Recipe((0.2, 0.6), 4 / 3))
    width, height = maps[:, 0, 0], maps[:, 1, 1]
    assert (width * height).min() >= 0.2 - 1e-6 and (width * height).max() <= 0.6 + 1e-6
    assert (maps[:, 0, 2].abs() + width <= 1 + 1e-6).all() and (maps[:, 1, 2].abs() + height <= 1 + 1e-6).all()
    assert (width / height).min() > 0.7 and (width / height).max() < 1.4


def test_blur_is_opencvs():
    seen = views(PIXELS, generators(range(6)), Recipe((1.0, 1.0), 1.0, blur=1.0), 16)
    for row in range(6):
        sigma = 0.1 + 1.4 * row_generator(3, 7, row).random(13)[11]
        told = cv2.GaussianBlur(
            PIXELS[row].astype(np.float32) / 127.5 - 1, (5, 5), float(sigma), borderType=cv2.BORDER_REPLICATE
        )
        assert np.abs(seen[row].permute(1, 2, 0).numpy() - told).max() < 1e-4


def test_grey_and_solarized():
    plain = scaled(PIXELS)
    grey = views(PIXELS, generators(range(6)), Recipe((1.0, 1.0), 1.0, grey=1.0), 16)
    assert torch.allclose(grey, luma(plain).expand_as(plain), atol=1e-5)
    solarized = views(PIXELS, generators(range(6)), Recipe((1.0, 1.0), 1.0, solarize=1.0), 16)
    assert torch.allclose(solarized, -plain.abs(), atol=1e-5)
