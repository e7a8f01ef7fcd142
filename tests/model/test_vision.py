"""A vision model's folder answers what its vectors say, and a damaged one says so."""

import cv2
import msgspec
import numpy as np
import pytest

from gyral.errors import InputError, UsageError
from gyral.model import card as cards
from gyral.model import vision
from gyral.model.augment import Recipe, scaled
from gyral.model.card import Card, Weights
from gyral.model.embedder import Embedder
from gyral.model.nets.captions import Shape as CaptionShape
from gyral.model.nets.masked import DecoderShape
from gyral.model.nets.vit import Shape
from gyral.model.pictures import Pictures
from gyral.model.tasks.contrastive import Contrastive
from gyral.model.tasks.masked import Masked
from gyral.model.vision import VISION, best

WORDS = ("tree", "house", "river", "stone", "cloud", "bridge")
PICTURE = Shape(16, 8, 16, 1, 2, 32)


def known(start, count):
    pixels = np.random.default_rng(start).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    texts = [f"{word} {language}" for word in WORDS[start : start + count] for language in ("en", "fr")]
    ids = [f"{word}.png" for word in WORDS[start : start + count]]
    return Pictures(pixels, ids, np.arange(count), texts, ["en", "fr"] * count, np.repeat(np.arange(count), 2))


def published(root, task, name):
    arrays = {key: value.numpy() for key, value in task.build(0).state_dict().items()}
    weights = task.finished(Weights(arrays, task.settings()))
    cards.publish(root, name, weights, None, Card(family="vision", dataset="pairs@1"), task.files())
    return cards.find(root, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    caption = CaptionShape(256, 16, 1, 2, 32)
    task = Contrastive(PICTURE, caption, 8, known(0, 4), known(4, 2), Recipe(), 0)
    return published(tmp_path_factory.mktemp("models"), task, "emoji")


def test_a_search_ranks_all_pictures_by_the_product_of_vectors(folder):
    model = VISION.load(folder)
    model.warm()
    assert model.name == "emoji@1" and model.known.ids == [f"{word}.png" for word in WORDS]
    scores = (model.gallery @ model.embed_texts(["a stone"])[0]).tolist()
    found = model.search("a stone", 10, "fr")
    assert [each.id for each in found] == [model.known.ids[at] for at in np.argsort(scores)[::-1]]
    assert [each.score for each in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    assert all(each.name == f"{each.id.removesuffix('.png')} fr" for each in found)
    assert len(model.search("a stone", 2)) == 2 and model.search("a stone", 0) == [] and model.search("", 1)


def test_a_picture_of_the_dataset_finds_itself_and_is_told_a_name(folder):
    model = VISION.load(folder)
    for start, count in ((0, 4), (4, 2)):
        for pixels, name in zip(known(start, count).pixels, known(start, count).ids, strict=True):
            raw = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
            assert model.similar(raw, 1)[0].id == name
    told = model.tell(raw, 3, "fr")
    assert len(told) == 3 and {each.text for each in told} <= {f"{word} fr" for word in WORDS}
    with pytest.raises(UsageError, match="no names in `xx`"):
        model.tell(raw, 3, "xx")
    with pytest.raises(InputError, match="cannot be decoded"):
        model.similar(b"no picture")


def test_a_model_of_pictures_alone_knows_no_captions(tmp_path):
    task = Masked(PICTURE, DecoderShape(16, 1, 2), 0.5, known(0, 4), known(4, 2), Recipe(), 0)
    model = VISION.load(published(tmp_path, task, "alone"))
    model.warm()
    assert model.gallery.shape == (6, 16) and np.allclose(np.linalg.norm(model.gallery, axis=1), 1, atol=1e-5)
    with pytest.raises(UsageError, match="knows no captions"):
        model.search("tree")


def test_states_before_the_last_blocks_are_those_that_the_next_block_gets():
    shape = Shape(16, 8, 16, 3, 2, 32)
    embedder = Embedder(Masked(shape, DecoderShape(16, 1, 2), 0.5, known(0, 4), known(4, 2), Recipe(), 0).build(0))
    pixels, got = known(0, 4).pixels, []
    embedder.tower.blocks["2"].register_forward_pre_hook(lambda module, given: got.append(given[0]))
    last = embedder.tokens(pixels)
    assert last.shape == (4, 5, 16) and np.array_equal(last, embedder.tower(scaled(pixels)).detach().numpy())
    assert np.array_equal(embedder.tokens(pixels, skip=1), embedder.tower.norm(got[0]).detach().numpy())
    with pytest.raises(UsageError, match="3 of 3 blocks"):
        embedder.tokens(pixels, skip=3)


def test_a_damaged_folder_is_told(folder, tmp_path):
    for file, body in (("pictures.json", b"{"), ("pictures.json", msgspec.json.encode({"ids": ["one"]}))):
        broken = tmp_path / f"broken-{len(body)}"
        broken.mkdir()
        for path in folder.iterdir():
            (broken / path.name).write_bytes(body if path.name == file else path.read_bytes())
        with pytest.raises(InputError, match="is no vision model"):
            VISION.load(broken)


def test_equal_scores_keep_their_order():
    assert best(np.array([1.0, 2.0, 2.0, 0.0]), 3) == [1, 2, 0]


def test_many_pictures_are_found_by_an_index_and_the_card_says_how_well(folder, monkeypatch):
    monkeypatch.setattr(vision, "INDEX_FROM", 10**9)
    exact = VISION.load(folder)
    monkeypatch.setattr(vision, "INDEX_FROM", len(WORDS))
    model = VISION.load(folder)
    assert exact.index is None and "index" not in exact.card
    assert model.card["index"]["rows"] == len(WORDS) and model.card["index"]["recall"] == 1
    for k in (0, 1, 4, 10):
        one, two = model.search("a stone", k, "fr"), exact.search("a stone", k, "fr")
        assert [(each.id, each.name) for each in one] == [(each.id, each.name) for each in two]
        assert [each.score for each in one] == pytest.approx([each.score for each in two], abs=2e-6)
