"""Captions of any script become words, n-grams and vectors."""

import zlib

import numpy as np
import torch

from gyral.model.nets.captions import GRAMS, LENGTH, Captions, Shape, grams_of, hashed, words_of

SHAPE = Shape(buckets=512, width=32, depth=1, heads=4, hidden=64)


def test_words_of_many_scripts():
    assert words_of("Red  Heart") == ["red", "heart"]
    assert words_of("Ｆｕｌｌ") == ["full"]  # one form
    assert words_of("Tischtennisschläger") == ["tischtenni", "sschläger"]
    assert words_of("赤いハート") == ["赤い", "ハー", "ト"]
    assert words_of("") == []


def test_hashes_are_those_of_zlib_and_never_the_empty_one():
    found = hashed(["ab"], 512)[0]
    told = [1 + zlib.crc32(gram.encode()) % 511 for gram in ("=ab", "<ab>", "<ab", "ab>", "<a", "ab", "b>")]
    assert found[0, :7].tolist() == told and not found[0, 7:].any() and not found[1:].any()
    assert found.shape == (1, GRAMS)
    many = hashed(["word " * 50, "x" * 500], 512)
    assert many.shape == (2, LENGTH, GRAMS) and (many[0, :, 0] > 0).all() and many.max() < 512 and many[many != 0].min() >= 1


def test_a_vector_depends_on_its_caption_alone():
    torch.manual_seed(0)
    model = Captions(SHAPE).eval()
    texts = ["red heart", "rotes Herz", "", "हरा दिल", "a much longer caption of a rather small picture"]
    together = model(grams_of(texts, 512))
    alone = torch.cat([model(grams_of([text], 512)) for text in texts])
    assert torch.allclose(together, alone, atol=1e-6) and torch.isfinite(together).all()
    assert len(np.unique(together.detach().numpy().round(4), axis=0)) == len(texts)


def test_words_that_share_letters_are_near():
    torch.manual_seed(0)
    model = Captions(Shape(4096, 64, 0, 4, 64)).eval()
    near, far, base = torch.nn.functional.normalize(model(grams_of(["tennisball", "zebra", "tennis"], 4096)))
    assert base @ near > base @ far + 0.1
