"""Numbers of grey pictures against numpy, from the definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gyral.curate.images.hash_kernel import measure, on_white, phash


def phash_by_the_book(grey):
    """The whole DCT-II by its definition, as scipy's `dct(dct(x, axis=0), axis=1)`, then imagehash's rule."""
    n = np.arange(32)
    dct = 2 * np.cos(np.pi * np.outer(n, 2 * n + 1) / 64)
    low = (dct @ grey.astype(float) @ dct.T)[:8, :8]
    bits = (low > np.median(low)).flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


@pytest.mark.parametrize("seed", range(30))
def test_the_hash_is_that_of_the_definition(seed):
    random = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(random.normal(size=(32, 32)), 0), 1)
    smooth = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    for grey in (random.integers(0, 256, (32, 32), dtype=np.uint8), smooth):
        assert int(phash(grey)) == phash_by_the_book(grey)


def test_known_hashes_of_imagehash():
    """Made with imagehash 4.3.2 and Pillow from the same pixels: curved stripes, and a checked pattern."""
    y, x = np.mgrid[:32, :32]
    for grey, told in (
        (((x * x + 3 * y * x) // 7 % 256).astype(np.uint8), KNOWN[0]),
        (((y // 5 + x // 7) % 2 * 200 + y).astype(np.uint8), KNOWN[1]),
    ):
        assert f"{int(phash(grey)):016x}" == told


KNOWN = ("89362d4b567555aa", "c707c707470707f9")


@pytest.mark.parametrize("value", [0, 1, 77, 128, 255])
def test_a_picture_of_one_colour_has_one_hash(value):
    expected = 1 << 63 if value else 0
    assert int(phash(np.full((32, 32), value, np.uint8))) == expected


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_blur_entropy_and_brightness(grey):
    blur, entropy, brightness = measure(grey)
    assert brightness == pytest.approx(grey.mean())
    shares = np.unique(grey, return_counts=True)[1] / grey.size
    assert entropy == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-9)
    wide = grey.astype(int)
    edges = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * wide[1:-1, 1:-1]
    assert blur == pytest.approx(edges.var() if edges.size else 0.0, rel=1e-9, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(4))))
def test_alpha_is_laid_on_white(picture):
    alpha = picture[:, :, 3:].astype(float) / 255
    expected = picture[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(on_white(picture) - expected).max() <= 0.5 + 1e-9
