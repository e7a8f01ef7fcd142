"""What leaves while an answer grows is what it is in the end; `str.find` is the oracle of stop texts."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gyral.serve.openai.choice import Choice, Letters, Settings


def text_of(tokens):
    return bytes(tokens).decode("utf-8", "replace")


def written(tokens, **settings):
    """A choice that draws these tokens, and its text after each."""
    choice, seen = Choice(Settings(10_000, **settings), Letters(text_of)), []
    for token in tokens:
        choice.take(token)
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
    choice = Choice(Settings(5, stops=("abz",)), Letters(text_of))
    for token in "日abc".encode():
        choice.take(token)
    assert (choice.text, choice.ended_by, choice.num) == ("日ab", "length", 5)
    choice = Choice(Settings(2), Letters(text_of))
    for token in "日".encode():
        choice.take(token)
    assert (choice.text, choice.ended_by, choice.num) == ("", "length", 2)


def test_what_comes_after_the_end_is_not_taken():
    """An engine that guesses may give several tokens at once, and a stop text ends in the midst of them."""
    choice = Choice(Settings(9, stops=("b",)), Letters(text_of))
    for token in b"abcd":
        choice.take(token, -1.0, [(token, -1.0)])
    assert (choice.text, choice.ended_by, choice.num, len(choice.told)) == ("a", "stop", 2, 2)
    choice = Choice(Settings(9, ends=frozenset({99})), Letters(text_of))
    choice.take(99)
    assert (choice.text, choice.ended_by, choice.num, choice.told) == ("", "stop", 1, [])
    assert Choice(Settings(0), Letters(text_of)).ended_by == "length"
