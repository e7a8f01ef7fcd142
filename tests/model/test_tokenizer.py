"""The tokenizer class: every text comes back, tokens do not depend on the batch, special tokens are never made of text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config.curation import Tokens
from gyral.curate.tokens import train
from gyral.errors import InputError, UsageError
from gyral.model.tokenizer import Tokenizer

pytest.importorskip("tokenizers")
TEXTS = ["the cat sat on the mat and the dog sat on the log"] * 20 + ["der Hund und die Katze sitzen auf der Matte"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    import pyarrow as pa

    return train([pa.array(TEXTS)], Tokens(vocab_size=400, special=["<|user|>"]))


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode([text]).tokens) == text


def test_tokens_do_not_depend_on_the_batch(tokenizer):
    texts = ["the cat", "", "naïve 日本語 12345", "x" * 5_000]
    tokens, lengths = tokenizer.encode(texts)
    alone = [tokenizer.encode([text]).tokens.tolist() for text in texts]
    assert [token for each in alone for token in each] == tokens.tolist()
    assert lengths.tolist() == [len(each) for each in alone]
    assert lengths[1] == 0


def test_a_text_that_spells_a_special_token_stays_text(tokenizer):
    eos = tokenizer.id_of("<|endoftext|>")
    tokens = tokenizer.encode(["a <|endoftext|> b <|user|>"]).tokens
    assert eos not in tokens and tokenizer.id_of("<|user|>") not in tokens
    assert tokenizer.decode(tokens) == "a <|endoftext|> b <|user|>"
    assert tokenizer.decode([eos]) == "<|endoftext|>"


def test_a_saved_one_is_the_same(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint == Tokenizer.load(path).fingerprint
    assert again.encode(TEXTS[:3]).tokens.tolist() == tokenizer.encode(TEXTS[:3]).tokens.tolist()
    assert again.vocab_size == tokenizer.vocab_size <= 400


def test_truncation_that_the_file_asks_for_is_not_done(tokenizer):
    body = tokenizer.body.replace(
        b'"truncation": null',
        b'"truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}',
    )
    assert body != tokenizer.body
    assert Tokenizer(body).encode(["the cat sat on the mat"]).lengths[0] > 3


def test_errors_say_what_to_do(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.load(tmp_path / "none.json")
    with pytest.raises(UsageError, match="no token"):
        tokenizer.id_of("<eos>")
