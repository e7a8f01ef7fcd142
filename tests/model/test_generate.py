"""Writing: the cache changes nothing, bytes are always UTF-8, and drawing follows the probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gyral.model.generate import Sampler, Utf8, generate
from gyral.model.nets.gpt2 import Gpt2
from gyral.model.nets.llama import Llama, Shape
from gyral.model.task import seeded

SHAPE = Shape(257, 32, 2, 4, 2, 64)


def nets():
    return [seeded(1, lambda: Llama(SHAPE)).eval(), seeded(1, lambda: Gpt2(Shape(257, 32, 2, 4, 4, 64), 24)).eval()]


@pytest.mark.parametrize("net", [0, 1])
def test_the_cache_changes_nothing_even_beyond_the_length(net):
    model = nets()[net]
    torch.manual_seed(5)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.3)  # far from uniform, so that a wrong position is seen

    def written(is_cached):
        found, logits = [], []

        def draw(given):
            logits.append(given)
            found.append(int(given.argmax()))
            return found[-1]

        generate(model, [256, 1, 2, 3, 4], 24, draw, 60, is_cached)
        return found, np.array(logits)

    (fast, fast_logits), (plain, plain_logits) = written(True), written(False)
    assert len(fast) == 60
    assert fast == plain
    np.testing.assert_allclose(fast_logits, plain_logits, atol=1e-4)
    assert all("attend" not in module.__dict__ for module in model.modules())  # it can train again


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=40))
def test_bytes_that_are_allowed_are_utf8_and_all_of_utf8_is_allowed(choices):
    letters = Utf8()
    raw = bytearray()
    for choice in choices:
        allowed = np.flatnonzero(letters.allowed(257)[:256])
        raw.append(int(allowed[choice % len(allowed)]))
        letters.push(raw[-1])
        letters.text.decode()
    kept = bytes(raw).decode(errors="ignore")
    assert letters.text.decode() == kept


def test_every_letter_can_be_written():
    for code in [*range(0, 0x3000, 7), 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x1F600, 0x10FFFF]:
        letters = Utf8()
        for byte in chr(code).encode():
            assert letters.allowed(257)[byte]
            letters.push(byte)
        assert letters.text.decode() == chr(code)
        assert letters.allowed(257)[256]


def test_drawing_follows_the_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))

    def shares(**settings):
        draw = Sampler(**{"temperature": 1.0, "top_p": 1.0, "seed": 0, **settings})
        found = [draw(logits) for _ in range(4_000)]
        assert all(abs(logprob - logits[token]) < 1e-9 for token, logprob in found)
        return np.bincount([token for token, _ in found], minlength=4) / len(found)

    np.testing.assert_allclose(shares(), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    np.testing.assert_allclose(shares(top_p=0.7), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(temperature=0.5), np.array([25, 9, 2.25, 0.25]) / 36.5, atol=0.03)
    assert shares(temperature=0)[0] == 1
    assert shares(top_p=0.01)[0] == 1
    token, _ = Sampler(0, 1.0, 0)(logits, np.array([False, False, True, True]))
    assert token == 2
