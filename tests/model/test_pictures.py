"""Pictures are decoded as OpenCV's documentation has it, and concepts keep to their side."""

import cv2
import numpy as np
import pytest

from gyral.errors import InputError
from gyral.model import pictures
from gyral.model.pictures import Pictures, decode_all, decoded, kept_aside


def png(array):
    return cv2.imencode(".png", array)[1].tobytes()


def test_forms_are_brought_to_red_green_blue():
    blue_green_red = np.zeros((8, 8, 3), np.uint8)
    blue_green_red[:, :, 2] = 200
    assert (decoded(png(blue_green_red), 4) == [200, 0, 0]).all()
    grey = np.full((8, 8), 90, np.uint8)
    assert (decoded(png(grey), 4) == 90).all()
    deep = np.full((8, 8, 3), 90 * 256 + 5, np.uint16)
    assert (decoded(png(deep), 4) == 90).all()
    clear = np.zeros((8, 8, 4), np.uint8)
    assert (decoded(png(clear), 4) == 255).all()
    clear[:, :, 3] = 255
    assert (decoded(png(clear), 4) == 0).all()
    assert decoded(png(blue_green_red), 4, channels=1).shape == (4, 4, 1)


def test_the_middle_of_a_wide_picture_is_kept():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    assert (decoded(png(wide), 8) == 255).all()


@pytest.mark.parametrize("raw", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_what_is_no_picture_is_told(raw):
    with pytest.raises(InputError, match="cannot be decoded"):
        decoded(raw, 8)


def test_many_are_decoded_in_order_and_broken_ones_are_marked():
    raws = [png(np.full((8, 8, 3), value, np.uint8)) for value in range(20)]
    raws[7] = b"broken"
    pixels, is_sound = decode_all(iter(raws), 20, 4)
    assert is_sound.tolist() == [number != 7 for number in range(20)]
    assert pixels[is_sound, 0, 0, 0].tolist() == [number for number in range(20) if number != 7]


def test_more_than_memory_is_refused(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="take 0 GiB"):
        decode_all(iter([]), 10, 4)


def test_who_is_kept_aside_stays_there_when_the_dataset_grows():
    names = [f"concept {number}" for number in range(2000)]
    aside = kept_aside(names, 0.1)
    assert 150 < aside.sum() < 250
    assert (kept_aside(names[:500], 0.1) == aside[:500]).all()
    for few in (2, 3, 5):
        assert 1 <= kept_aside(names[:few], 1e-9).sum() < few and 1 <= kept_aside(names[:few], 1.0).sum() < few


def test_a_selection_keeps_pictures_and_captions_of_its_concepts():
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    every = Pictures(pixels, list("abcde"), np.array([0, 1, 0, 2, 2]), ["x", "y", "z"], ["en", "de", "en"], np.array([0, 2, 2]))
    assert every.of(0).tolist() == [0, 2] and every.captions_of(1).tolist() == []
    part = every.only(np.array([2, 0]))
    assert part.ids == list("acde"[:1] + "cde") and part.concept.tolist() == [1, 1, 0, 0]
    assert part.texts == ["x", "y", "z"] and part.caption_concept.tolist() == [1, 0, 0]
    assert part.captions_of(0).tolist() == [1, 2]
