import json

import pytest

from gyral.errors import NotFound, QualityError, UsageError
from gyral.files import versions
from gyral.model import card as cards
from gyral.model.family import RECOMMENDER


@pytest.fixture
def trained(project, small_shop):
    project.ingest(small_shop)
    project.curate()
    project.train()
    return project


def test_int8_is_smaller_measured_and_answers_nearly_the_same(trained):
    card = trained.compress()
    made = card.compression
    assert card.model == "shop-int8@1" and made.from_model == "shop@1"
    assert made.bytes_after < 0.5 * made.bytes_before and made.relative_loss <= 0.01
    assert made.metric_before > 0 and abs(made.metric_after - made.metric_before) < 0.02
    whole, small = (RECOMMENDER.load(cards.find(trained.root, name)) for name in ("shop", "shop-int8"))
    same = 0
    for subject in whole.codes.inputs.subjects[:100]:
        one, two = (model.recommend(subject, 10, {}) for model in (whole, small))
        same += len({item.object for item in one.items} & {item.object for item in two.items})
    assert same >= 950
    assert json.loads((trained.root / "models/shop-int8@1/card.json").read_text())["compression"]["from"] == "shop@1"


def test_above_the_limit_nothing_is_published(trained, monkeypatch):
    import numpy as np

    from gyral import plugins
    from gyral.compress.quantize import int8

    def ruin(weights, matrices):
        small = int8(weights, matrices)
        small.arrays["item_item"] = np.zeros_like(small.arrays["item_item"])
        return small._replace(settings={"spec": {**small.settings["spec"], "repeat": 0.0, "popular": -1.0}})

    monkeypatch.setitem(plugins._registered, ("compressor", "ruin"), ruin)
    with pytest.raises(QualityError) as caught:
        trained.compress(compress__to="ruin")
    assert "--max-loss" in caught.value.hint and "shop@1" in caught.value.hint
    assert versions(trained.root / "models", "shop-ruin") == []


def test_what_cannot_be_compressed_is_said(trained):
    trained.compress()
    with pytest.raises(UsageError, match="compressed already"):
        trained.compress("shop-int8")
    with pytest.raises(NotFound):
        trained.compress("nothing")
