"""Several requests at once are answered as each alone."""

import base64

import msgspec
import numpy as np
import pytest

from gyral.errors import InputError
from gyral.model.retrieving.index import Index
from gyral.model.vision_routes import Embed, Label, Search, Shown, routes_of


class Encoder:
    """Vectors by what is in a text or a picture; counts how often it is asked."""

    objects = ("a", "b", "c")
    gallery = np.eye(3, 4, dtype=np.float32)

    def __init__(self):
        self.passes = 0

    def embed_texts(self, texts):
        self.passes += 1
        return np.array([[len(each), each.count("a"), each.count("b"), 1] for each in texts], np.float32)

    def embed_images(self, raws):
        self.passes += 1
        return np.array([[sum(each), len(each), 0, 1] for each in raws], np.float32)

    scale = 2.0

    def named(self, language):
        return ["x", "yy"], self.embed_texts(["x", "yy"])

    def name_of(self, place, language):
        return f"{self.objects[place]}-{language}"


@pytest.fixture
def model():
    return Encoder()


@pytest.fixture
def routes(model):
    return routes_of(model, lambda scores, k: np.argsort(-scores, kind="stable")[:k].tolist())


def encoded(*raws):
    return [base64.b64encode(each).decode() for each in raws]


def test_embeddings_together_are_those_of_each_and_take_a_pass_of_each_kind(model, routes):
    requests = [Embed(["ab", "b"]), Embed([], encoded(b"xy")), Embed(["aaa"], encoded(b"", b"z"))]
    alone = [routes["/v1/embed"].answer(each) for each in requests]
    model.passes = 0
    assert routes["/v1/embed"].together(requests) == alone and model.passes == 2
    assert alone[0].body == {"texts": [[2, 1, 1, 1], [1, 0, 1, 1]]} and alone[2].props == {"texts": 1, "pictures": 2}
    for asked in ([Embed(["a"]), Embed()], [Embed()]):
        with pytest.raises(InputError, match="nothing to embed"):
            routes["/v1/embed"].together(asked)


def test_searches_together_find_what_each_finds_also_among_what_was_shown(model, routes):
    routes["/v1/pictures"].answer(msgspec.convert({"pictures": [{"object": "new", "raw": encoded(b"ab")[0]}]}, _Pictures))
    requests = [
        Search("ab", k=2),
        Search("b", k=4, language="en"),
        Search("bbb", k=1, among="shown"),
        Search("a", among="learned"),
    ]
    alone = [routes["/v1/search"].answer(each) for each in requests]
    model.passes = 0
    assert routes["/v1/search"].together(requests) == alone and model.passes == 1
    assert alone[2].object == "new" and len(alone[3].body["items"]) == 3 and alone[1].body["items"][1]["title"] == "a-en"


def test_a_picture_is_looked_for_like_words(model, routes):
    raw = encoded(b"\x01\x00")[0]
    requests = [Search(picture=raw, k=1), Search("bbbbbb", k=1), Search(picture=encoded(b"abc")[0], k=3)]
    told = routes["/v1/search"].together(requests)
    assert told == [routes["/v1/search"].answer(each) for each in requests]
    assert told[0].body == {"items": [{"object": "b", "score": 2.0, "title": "b-"}]}
    for bad in (Search(), Search("a", picture=raw)):
        with pytest.raises(InputError, match="words or for a picture"):
            routes["/v1/search"].answer(bad)


def test_labels_are_told_with_their_share_of_what_was_asked_or_known(model, routes):
    picture = encoded(b"\x01")[0]  # its vector is 1, 1, 0, 1
    told = routes["/v1/label"].answer(Label(picture, ["a", "b"], k=2)).body["labels"]
    assert [each["label"] for each in told] == ["a", "b"] and [each["score"] for each in told] == [3.0, 2.0]
    assert [each["share"] for each in told] == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))], abs=1e-6)
    known = routes["/v1/label"].answer(Label(picture, k=1))
    assert known.body["labels"][0]["label"] == "yy" and known.kind == "label" and known.props["labels"] == ["yy"]


class _Pictures(msgspec.Struct):
    pictures: list[Shown]


def test_a_large_gallery_is_searched_by_its_index_which_says_what_it_finds(model):
    random = np.random.default_rng(0)
    model.gallery = random.standard_normal((6_000, 4)).astype(np.float32)
    model.objects = [f"{at}" for at in range(6_000)]
    index = Index("ivf", recall=0.9)
    card = index.build(model.gallery, "1", queries_BD=random.standard_normal((600, 4)).astype(np.float32))
    assert 0.8 < card.recall < 1
    best = lambda scores, k: np.argsort(-scores, kind="stable")[:k].tolist()  # noqa: E731
    by_index, exact = routes_of(model, best, index), routes_of(model, best)
    words = ["a" * (1 + at % 7) + "b" * (at % 5) + "c" * (at % 3) for at in range(105)]
    requests = [Search(each, k=5 + at % 6, language="en") for at, each in enumerate(words)]
    found, wanted = by_index["/v1/search"].together(requests), exact["/v1/search"].together(requests)
    for told, request in zip(found, requests, strict=True):
        assert told == by_index["/v1/search"].answer(request) and told.body["recall"] == card.recall
        assert [item["score"] for item in told.body["items"]] == sorted((i["score"] for i in told.body["items"]), reverse=True)
    pairs = [({item["object"] for item in one.body["items"]}, {item["object"] for item in two.body["items"]})
             for one, two in zip(found, wanted, strict=True)]  # fmt: skip
    share = sum(len(one & two) for one, two in pairs) / sum(len(two) for _, two in pairs)
    assert 0.75 < share < 1 and all("recall" not in told.body for told in wanted)
    for routes in (by_index, exact):
        routes["/v1/pictures"].answer(msgspec.convert({"pictures": [{"object": "new", "raw": encoded(b"zzzz")[0]}]}, _Pictures))
        told = routes["/v1/search"].answer(Search("aaa", k=3, language="en"))
        assert told.body["items"][0] == {"object": "new", "score": told.body["items"][0]["score"]}
        assert len(told.body["items"]) == 3 and "title" in told.body["items"][1]
    alone = by_index["/v1/search"].answer(Search("aaa", among="shown"))
    assert "recall" not in alone.body and len(alone.body["items"]) == 1
