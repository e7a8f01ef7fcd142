"""Several requests at once are answered as each alone."""

import base64

import msgspec
import numpy as np
import pytest

from gyral.errors import InputError
from gyral.model.vision_routes import Embed, Search, Shown, routes_of


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
    requests = [Search("ab", 2), Search("b", 4, "en"), Search("bbb", 1, among="shown"), Search("a", among="learned")]
    alone = [routes["/v1/search"].answer(each) for each in requests]
    model.passes = 0
    assert routes["/v1/search"].together(requests) == alone and model.passes == 1
    assert alone[2].object == "new" and len(alone[3].body["items"]) == 3 and alone[1].body["items"][1]["title"] == "a-en"


class _Pictures(msgspec.Struct):
    pictures: list[Shown]
