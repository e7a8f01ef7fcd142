"""What leaves while an answer grows is what it is in the end; `str.find` is the oracle of stop texts."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gyral.serve.openai.choice import Choice, Letters, Settings


def text_of(tokens):
    return bytes(tokens).decode("utf-8", "replace")


def written(tokens, **settings):
    """A choice that draws these tokens, and its text after each."""
    left = iter(tokens)
    choice = Choice(Settings(10_000, **settings), lambda logits, allowed: (next(left), 0.0), Letters(text_of))
    seen = []
    while choice.ended_by is None and len(choice.tokens) < len(tokens):
        choice.draw(np.zeros(256))
        seen.append(choice.text)
    return choice, seen


@given(st.text("abß日", max_size=40), st.lists(st.text("abß日", min_size=1, max_size=4), max_size=3))
def test_stop_texts_end_an_answer_wherever_tokens_cut_them(text, stops):
    choice, seen = written(text.encode(), stops=tuple(stops))
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        # The first stop text that is whole ends it; of several that end at once, the one that begins first.
        ends = min(text.find(stop) + len(stop) for stop in stops if stop in text)
        begins = min(text.find(stop) for stop in stops if stop in text[:ends])
        assert choice.text == text[:begins] and choice.ended_by == "stop"
    else:
        assert text.startswith(choice.text) and choice.ended_by is None
        held = text[len(choice.text) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)
    for before, after in pairwise(seen):
        assert after.startswith(before)


@given(st.binary(max_size=60))
def test_letters_are_whole_and_none_is_lost(raw):
    letters = Letters(text_of)
    told = "".join(letters.push(byte) for byte in raw)
    assert text_of(raw).startswith(told) or "\ufffd" in told
    assert len(told.encode()) >= len(raw) - 8 - 3 * told.count("\ufffd")


def test_a_letter_that_the_limit_cuts_is_left_out_and_what_was_held_comes():
    choice = Choice(Settings(4, stops=("abz",)), Draws("日ab".encode()), Letters(text_of))
    while choice.ended_by is None:
        choice.draw(np.zeros(256))
    assert (choice.text, choice.ended_by) == ("日a", "length")
    choice = Choice(Settings(2), Draws("日".encode()), Letters(text_of))
    choice.draw(np.zeros(256)), choice.draw(np.zeros(256))
    assert (choice.text, choice.ended_by) == ("", "length")


class Draws:
    def __init__(self, tokens):
        self.left, self.logits = list(tokens), []

    def __call__(self, logits, allowed=None):
        self.logits.append(logits.copy())
        return self.left.pop(0), 0.0


def test_penalties_and_biases_are_openais_formula():
    draws = Draws([3, 3, 5, 7])
    choice = Choice(Settings(4, presence=0.5, frequency=0.25, bias=((5, 10.0), (999, 1.0))), draws, Letters(text_of))
    given_ = np.arange(16.0)
    for _ in range(4):
        choice.draw(given_)
    expected = np.arange(16.0)
    expected[5] += 10
    expected[3] -= 2 * 0.25 + 0.5
    expected[5] -= 0.25 + 0.5
    np.testing.assert_allclose(draws.logits[3], expected)
    np.testing.assert_array_equal(given_, np.arange(16.0))


def test_logprobs_are_of_the_model_and_the_likeliest_come_first():
    logits = np.log(np.array([0.1, 0.6, 0.05, 0.25]))
    choice = Choice(Settings(1, logprobs=2, bias=((0, 50.0),)), Draws([0]), Letters(text_of))
    choice.draw(logits)
    told = choice.told[0]
    np.testing.assert_allclose(np.exp([told.logprob, *(value for _, value in told.likeliest)]), [0.1, 0.6, 0.25])
    assert [token for token, _ in told.likeliest] == [1, 3]
