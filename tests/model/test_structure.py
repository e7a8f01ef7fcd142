"""Whatever is drawn parses, and is what the schema describes: jsonschema is the oracle."""

import json

import jsonschema
import numpy as np
import pytest

from gyral.errors import InputError
from gyral.model.generate import Sampler
from gyral.model.hf import tokenizer_of_bytes
from gyral.model.structure import Structures

END = 256
PAIR = {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 2}
SCHEMAS = {
    "nested": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "home": {
                "type": "object",
                "properties": {"street": {"type": "string", "maxLength": 5}, "number": {"type": "integer"}},
                "required": ["number"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "home"],
        "additionalProperties": False,
    },
    "arrays": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "minItems": 1,
        "maxItems": 4,
    },
    "enums": {"enum": ["red", "a \"quoted\" \\ one", "größe 日本", 7, None, True]},
    "numbers": {
        "type": "object",
        "properties": {"n": {"type": "number"}, "age": {"type": "integer", "minimum": -3, "maximum": 150}},
        "required": ["n", "age"],
        "additionalProperties": False,
    },
    "strings": {"type": "string", "minLength": 3, "maxLength": 40},
    "pattern": {"type": "string", "pattern": "^[a-f]{2}-[0-9]+$"},
    "optional": {
        "type": "object",
        "properties": {each: {"type": ["integer", "null"]} for each in "abc"},
        "additionalProperties": False,
    },
    "either": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/pair"}], "$defs": {"pair": PAIR}},
    "any": {"type": "object"},
}  # fmt: skip


@pytest.fixture(scope="module")
def structures():
    return Structures(tokenizer_of_bytes(), 260, END)


def drawn(structure, seed, temperature=2.0):
    """What a model of random logits writes."""
    random, sampler = np.random.default_rng(seed), Sampler(temperature, 1.0, seed)
    found = []
    for _ in range(20_000):
        token, _ = sampler(random.normal(0, 3, 260), structure(found))
        if token == END:
            return bytes(found).decode()
        found.append(token)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("name", SCHEMAS)
def test_all_that_is_drawn_is_what_the_schema_describes(structures, name):
    texts = {drawn(structures.of(SCHEMAS[name]), seed) for seed in range(12)}
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMAS[name])
    assert len(texts) > 3 or name == "any"


def test_outputs_that_are_no_tokens_are_never_allowed_and_the_end_comes_only_at_the_end(structures):
    structure = structures.of({"type": "boolean"})
    assert np.flatnonzero(structure([])).tolist() == sorted(b"tf")
    assert np.flatnonzero(structure([*b"tru"])).tolist() == [ord("e")]
    found = structure([*b"true"])
    assert np.flatnonzero(found).tolist() == [END] and found.shape == (260,) and found.dtype == bool
    with pytest.raises(InputError, match="cannot be followed"):
        structures.of({"type": "boolean"})([*b"tx"])


def test_tokens_that_were_guessed_are_taken_back(structures):
    """A sampler that guesses asks about tokens that are then dropped; a fresh one is the oracle."""
    random = np.random.default_rng(0)
    text = drawn(structures.of(SCHEMAS["nested"]), 5).encode()
    structure = structures.of(SCHEMAS["nested"])
    for _ in range(200):
        tokens = [*text[: random.integers(len(text) + 1)]]
        np.testing.assert_array_equal(structure(tokens), structures.of(SCHEMAS["nested"])(tokens))
    other = structures.of(SCHEMAS["nested"])
    other([*b'{"name": "ab"'])
    np.testing.assert_array_equal(other([*b'{"name": "\\""']), structures.of(SCHEMAS["nested"])([*b'{"name": "\\""']))


def test_answers_of_one_schema_do_not_see_each_other(structures):
    first, second = structures.of(SCHEMAS["strings"]), structures.of(SCHEMAS["strings"])
    assert first([*b'"'])[ord("x")]
    assert np.flatnonzero(second([])).tolist() == [ord('"')]


@pytest.mark.parametrize("schema", [{"type": "nope"}, {"type": "string", "pattern": r"(a)\1"}, {"$ref": "#/nowhere"}])
def test_a_schema_that_cannot_be_followed_is_refused(structures, schema):
    with pytest.raises(InputError, match="cannot be followed"):
        structures.of(schema)
