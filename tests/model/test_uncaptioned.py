"""What vectors tell without captions: classes that the data says itself, a probe of them, and how many directions are used."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gyral.model.embedder import Embedder
from gyral.model.nets.masked import Autoencoder, DecoderShape
from gyral.model.nets.vit import Shape
from gyral.model.pictures import Pictures
from gyral.model.uncaptioned import labels_of, probed, spread

RANDOM = np.random.default_rng(0)


def pictures(names, texts=(), of=None):
    pixels = np.zeros((len(names), 8, 8, 1), np.uint8)
    concept = np.arange(len(names))
    return Pictures(pixels, names, concept, texts, [""] * len(texts), np.arange(len(texts)) if of is None else of)


def test_a_folder_is_a_class():
    trained = pictures([f"a.zip/{'cat' if at % 3 else 'dog'}/{at}.png" for at in range(30)])
    held_out = pictures(["a.zip/dog/x.png", "a.zip/cat/y.png"])
    known, asked = labels_of(trained, held_out)
    assert known.tolist() == [0 if at % 3 else 1 for at in range(30)] and asked.tolist() == [1, 0]


def test_a_caption_of_many_pictures_is_a_class_and_a_name_is_none():
    names = [f"all/{at}.png" for at in range(30)]
    classes = pictures(names, [("sandal", "boot")[at % 2] for at in range(30)])
    known, _ = labels_of(classes, pictures(["all/x.png"], ["boot"]))
    assert known.tolist() == [1 - at % 2 for at in range(30)]
    assert labels_of(pictures(names, [f"number {at}" for at in range(30)]), pictures(["all/x.png"], ["number 3"])) is None
    assert labels_of(pictures(names), pictures(["all/x.png"])) is None
    assert labels_of(classes, pictures(["all/x.png"], ["hat"])) is None  # nobody could have learned it
    two = replace(classes, texts=[*classes.texts, "shoe"], caption_concept=np.r_[np.arange(30), 4])
    assert labels_of(two, pictures(["all/x.png"], ["boot"])) is None


def test_folders_of_renderings_are_no_classes():
    both = replace(pictures([f"{'one' if at < 20 else 'two'}/{at % 20}.png" for at in range(40)]), concept=np.arange(40) % 20)
    assert labels_of(both, pictures(["one/99.png"])) is None


@torch.no_grad()
def test_a_probe_tells_what_can_be_seen_and_not_what_cannot():
    torch.manual_seed(0)
    embedder = Embedder(Autoencoder(Shape(8, 4, 16, 1, 2, 32, channels=1), DecoderShape(16, 1, 2)))

    def drawn(count, seen):
        random = np.random.default_rng(count)
        labels = random.integers(0, 3, count)
        pixels = (
            random.integers(0, 60, (count, 8, 8, 1))
            + 60 * (labels if seen else random.integers(0, 3, count))[:, None, None, None]
        )
        return replace(
            pictures([f"{'abc'[label]}/{at}.png" for at, label in enumerate(labels)]), pixels=pixels.astype(np.uint8)
        )

    told = probed(embedder, drawn(400, True), drawn(200, True))
    assert told["probe_accuracy"] > 0.9 and 0.25 < told["probe_chance"] < 0.45
    assert probed(embedder, drawn(400, False), drawn(200, False))["probe_accuracy"] < 0.5
    assert probed(embedder, pictures(["a/1.png"] * 9), pictures(["a/2.png"])) == {}


def test_directions_are_counted():
    told = spread(np.eye(8)[:4])  # four corners of a simplex span three directions alike
    assert told["effective_rank"] == pytest.approx(3)
    assert spread(np.tile([1.0, 0.0, 0.0], (10, 1))) == {"effective_rank": 0.0, "feature_spread": 0.0}
    two = spread(np.repeat([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], 5, axis=0))
    assert two["effective_rank"] == pytest.approx(1) and two["feature_spread"] == pytest.approx(3**0.5 / 3)
    everywhere = RANDOM.normal(size=(4_000, 16))
    everywhere /= np.linalg.norm(everywhere, axis=1, keepdims=True)
    told = spread(everywhere.astype(np.float32))
    assert 15.8 < told["effective_rank"] <= 16 and told["feature_spread"] == pytest.approx(1, abs=0.01)
    assert spread(everywhere[:1]) == {}
