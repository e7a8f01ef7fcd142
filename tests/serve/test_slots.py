import json
import time

import pytest

from gyral.errors import GyralError, NotFound
from gyral.model.family import RECOMMENDER
from gyral.serve.slots import Slots


def until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def notes():
    return []


@pytest.fixture
def slots(shop, notes):
    opened = Slots(shop.root, "shop-int8", notes.append)
    yield opened
    opened.close()


def test_the_newest_version_is_followed_and_the_old_reference_still_answers(shop, slots, publish):
    old = slots.get(None)
    publish(shop.root, "shop-int8")
    until(lambda: slots.get(None).name == "shop-int8@2")
    assert old.recommend("17850", 3, {}).items == slots.get(None).recommend("17850", 3, {}).items


def test_a_damaged_version_leaves_the_old_one_and_a_good_one_follows(shop, slots, publish, notes):
    publish(shop.root, "shop-int8", damage="weights.safetensors")
    until(lambda: any("shop-int8@2" in note and "cannot be served" in note for note in notes))
    assert slots.get(None).name == "shop-int8@1"
    time.sleep(0.3)
    assert sum("cannot be served" in note for note in notes) == 1
    (shop.root / "models/shop-int8@2").rename(shop.root / "models/.broken")
    publish(shop.root, "shop-int8")
    publish(shop.root, "shop-int8")
    until(lambda: slots.get(None).name == "shop-int8@3")


def test_further_slots_are_named_in_a_file(shop, slots, notes):
    path = shop.root / "models" / "shop-int8.slots.json"
    path.write_text(json.dumps({"frozen": "shop@1", "default": "shop@1"}))
    until(lambda: slots.get("frozen") is not None)
    assert slots.names() == {"default": "shop-int8@1", "frozen": "shop@1", "popularity": "shop-int8@1"}
    path.write_text("{torn")
    until(lambda: any("cannot be read" in note for note in notes))
    assert slots.get("frozen").name == "shop@1"
    path.write_text("{}")
    until(lambda: slots.get("frozen") is None)
    assert slots.loaded_at("frozen") == 0.0


def test_an_unpinned_slot_follows_and_a_model_named_too_early_is_taken_when_it_comes(shop, slots, publish, notes):
    names = {"other": "shop", "later": "shop-int8@2", "out": "../shop@1", "odd": "shop@x"}
    (shop.root / "models" / "shop-int8.slots.json").write_text(json.dumps(names))
    until(lambda: slots.get("other") is not None and sum("cannot be served" in note for note in notes) == 3)
    publish(shop.root, "shop")
    publish(shop.root, "shop-int8")
    until(lambda: slots.get("later") is not None and slots.get("other").name == "shop@2")
    time.sleep(0.3)
    assert slots.get("later") is slots.get(None)
    assert sum("answers in the slot `other`" in note for note in notes) == 2
    assert slots.get("out") is None and slots.get("odd") is None


def test_a_broken_newest_version_does_not_keep_a_server_from_starting(shop, publish, notes):
    publish(shop.root, "shop-int8", damage="inputs.json")
    slots = Slots(shop.root, "shop-int8", notes.append)
    assert slots.get(None).name == "shop-int8@1" and "shop-int8@2" in notes[0]
    slots.close()
    with pytest.raises(GyralError, match="shop-int8@2"):
        Slots(shop.root, "shop-int8@2", notes.append)


def test_whatever_a_family_raises_the_old_version_stays(shop, slots, publish, notes, monkeypatch):
    monkeypatch.setattr(RECOMMENDER.__class__, "load", lambda self, folder: {}["missing"])
    publish(shop.root, "shop-int8")
    until(lambda: any("KeyError" in note for note in notes))
    monkeypatch.undo()
    assert slots.get(None).name == "shop-int8@1"
    publish(shop.root, "shop-int8")
    until(lambda: slots.get(None).name == "shop-int8@3")


def test_a_pinned_version_stays(shop, publish, notes):
    slots = Slots(shop.root, "shop-int8@1", notes.append)
    publish(shop.root, "shop-int8")
    time.sleep(0.4)
    assert slots.get(None).name == "shop-int8@1" and slots.get("other") is None
    slots.close()


def test_a_model_without_a_version_cannot_be_served(shop, notes):
    with pytest.raises(NotFound, match="no model `shoes`"):
        Slots(shop.root, "shoes", notes.append)
