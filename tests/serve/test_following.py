"""Which models workers are told to answer with."""

import json

import pytest

from gyral.errors import NotFound, ServeError
from gyral.serve.following import GUESS, Following
from gyral.serve.job import in_set, set_of
from gyral.serve.slots import DEFAULT


def card_of(root, version, **fields):
    """A model's folder with nothing but a card."""
    folder = root / "models" / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps({"format": 1, "family": "recommender", "model": version, **fields}))


@pytest.fixture
def root(tmp_path):
    for version in ("shop@1", "shop@2", "small@1", "other@1"):
        card_of(tmp_path, version, size_bytes=100)
    return tmp_path


def test_the_newest_of_each_is_tried_first_and_nothing_older_than_what_answers(root):
    following = Following(root, "shop", ["small"], print)
    assert following.sets() == ["shop=shop@2 small=small@1", "shop=shop@1 small=small@1"]
    assert following.sets("shop=shop@2 small=small@1") == []
    assert following.sets("shop=shop@1 small=small@1") == ["shop=shop@2 small=small@1"]
    card_of(root, "small@2")
    assert following.sets("shop=shop@2 small=small@1") == ["shop=shop@2 small=small@2"]
    assert Following(root, "shop@1", [], print).sets() == ["shop=shop@1"]
    with pytest.raises(NotFound):
        Following(root, "shop", ["none"], print)


def test_a_set_that_was_refused_is_not_tried_before_a_folder_changes(root):
    notes = []
    following = Following(root, "shop", [], notes.append)
    following.refuse("shop=shop@2", ServeError("damaged"))
    assert following.sets("shop=shop@1") == [] and following.sets() == ["shop=shop@1"]
    assert len(notes) == 1 and "shop@2" in notes[0]
    (root / "models" / "shop@2" / "more").write_text("")
    assert following.sets("shop=shop@1") == ["shop=shop@2"]


def test_what_failed_once_is_tried_again_for_a_while(root, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    following, tries = Following(root, "shop", [], lambda text: None), []
    for _ in range(200):
        now[0] += 0.1
        for version in following.sets("shop=shop@1"):
            tries.append(round(now[0] - 100, 1))
            following.refuse(version, ServeError("a worker ended while it loaded it"))
    assert tries == [0.1, 1.2, 3.3, 7.4]


def test_slots_and_a_model_on_trial_are_in_the_set_and_have_queues_of_their_own(root):
    (root / "models" / "shop.slots.json").write_text('{"frozen": "shop@1", "bad name": "shop@1", "gone": "none@1"}')
    notes = []
    following = Following(root, "shop", ["small"], notes.append, "other")
    version = following.sets()[0]
    assert in_set(version) == {
        "shop": "shop@2", "small": "small@1", "slot:frozen": "shop@1", "slot:canary": "other@1",
    }  # fmt: skip
    assert set_of(in_set(version)) == version and len(notes) == 1 and "gone" in notes[0]
    slots = following.slots(version)
    assert {name: [each.name for each in variants] for name, variants in slots.items()} == {
        DEFAULT: ["shop", "small"], "frozen": ["slot:frozen"], "canary": ["slot:canary"],
    }  # fmt: skip
    (root / "models" / "shop.slots.json").write_text("{")
    assert "slot:frozen" not in in_set(following.sets()[0]) and "cannot be read" in notes[-1]


def test_what_was_measured_when_it_was_compressed_is_believed_at_first(root):
    compression = {
        "to": "int8", "from": "shop@2", "metric_before": 0.5, "metric_after": 0.45, "relative_loss": 0.1, "max_loss": 0.2,
        "bytes_before": 1, "bytes_after": 1,
    }  # fmt: skip
    card_of(root, "small@1", compression=compression)
    tried = {"to": "int8", "model": "small@1", "p50_ms": {"1": 2.0, "8": 9.0}, "memory_bytes": 7}
    card_of(root, "shop@2", variants=[{"to": "", "model": "shop@2", "p50_ms": {"1": 5.0}}, tried, {"to": "int4"}])
    following = Following(root, "shop", ["*"], print)
    slots = following.slots(following.sets()[0])[DEFAULT]
    assert [each.name for each in slots] == ["shop", "small"] and [each.quality for each in slots] == [1.0, 0.9]
    assert slots[0].curves["server"] == GUESS and slots[1].memory_bytes == 7
    assert slots[1].curves["server"] == pytest.approx((1e-3, 1e-3))


def test_when_a_variant_is_sure_is_what_the_card_of_this_version_says_and_an_older_version_may_be_asked_first(root):
    sure = {"threshold": 0.5, "kept": 0.8, "accuracy": 0.9, "large": 0.91, "path": "/v1/label"}
    tried = [{"to": "int8", "model": "shop-int8@1", "cascade": sure}, {"to": "shop@1", "model": "shop@1", "cascade": sure}]
    made = {"to": "int8", "from": "shop@2", "metric_before": 1, "metric_after": 1, "relative_loss": 0.1, "max_loss": 1}
    made |= {"bytes_before": 2, "bytes_after": 1}
    card_of(root, "shop@2", variants=tried)
    card_of(root, "shop-int8@1", compression=made, variants=tried)
    following = Following(root, "shop", ["*"], print)
    version = following.sets()[0]
    assert version == "shop=shop@2 shop-int8=shop-int8@1 shop@1=shop@1"
    variants = {each.name: each for each in following.slots(version)[DEFAULT]}
    assert list(variants) == ["shop", "shop-int8", "shop@1"] and variants["shop"].cascade is None
    assert variants["shop-int8"].cascade.threshold == variants["shop@1"].cascade.threshold == 0.5
    card_of(root, "shop@3")
    newer = Following(root, "shop", ["shop-int8"], print)
    assert [each.cascade for each in newer.slots(newer.sets()[0])[DEFAULT]] == [None, None], "it was held against shop@2"
