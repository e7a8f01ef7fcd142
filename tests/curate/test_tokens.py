"""Training a tokenizer and turning texts into tokens: the same file again, the same tokens by any workers, honest counts."""

import numpy as np
import pyarrow as pa
import pytest

from gyral.config.curation import Tokens
from gyral.curate.mix import Sampler
from gyral.curate.tokens import drawn, encoded, fertility, train
from gyral.engine.local import LocalEngine

pytest.importorskip("tokenizers")
RANDOM = np.random.default_rng(0)
WORDS = ["".join(RANDOM.choice(list("abcdefghijklmnop"), RANDOM.integers(2, 9))) for _ in range(300)]
TEXTS = [" ".join(RANDOM.choice(WORDS, 60)) for _ in range(400)]


@pytest.fixture(scope="module")
def tokenizer():
    return train([pa.array(TEXTS)], Tokens(vocab_size=600))


def test_training_is_repeatable_and_does_not_depend_on_batches(tokenizer):
    cut = [pa.array(TEXTS[begin : begin + 7]) for begin in range(0, len(TEXTS), 7)]
    assert train(cut, Tokens(vocab_size=600)).body == tokenizer.body
    assert tokenizer.vocab_size == 600
    assert tokenizer.id_of("<|endoftext|>") == 0


def test_training_stops_at_its_bytes():
    short = sum(len(text) for text in TEXTS[:50])
    odd = ["zqzqzq" * 50] * 100
    with_rest = train([pa.array(TEXTS[:50] + odd)], Tokens(vocab_size=400, train_bytes=short))
    assert with_rest.body == train([pa.array(TEXTS[:50])], Tokens(vocab_size=400)).body


def test_marks_stay_with_their_letters():
    """Hindi `हिन्दी` has vowel signs and a virama, which `\\p{L}+` alone would cut off."""
    hindi = "हिन्दी भाषा में लिखा हुआ एक वाक्य"
    made = train([pa.array([hindi] * 50)], Tokens(vocab_size=600))
    assert len(made.encode(["हिन्दी"]).tokens) == 1 or len(made.encode([" हिन्दी"]).tokens) <= 2


@pytest.mark.parametrize("on", [{"threads": 1}, {"threads": 3}, {"processes": 2}])
def test_tokens_are_the_same_by_any_workers(tokenizer, tmp_path, on):
    path = tokenizer.save(tmp_path)
    engine = LocalEngine(**on)
    texts = [*TEXTS[:100], None, *TEXTS[100:]] * 12  # two batches and more
    batches = [pa.array(texts[:37]), pa.array(texts[37:])]
    try:
        parts = list(encoded(engine, path, batches))
    finally:
        engine.close()
    want = tokenizer.encode([text or "" for text in texts])
    assert len(parts) > 2
    assert np.concatenate([part.tokens for part in parts]).tolist() == want.tokens.tolist()
    assert np.concatenate([part.lengths for part in parts]).tolist() == want.lengths.tolist()


def test_texts_come_in_the_order_of_the_mix_from_any_document():
    copies = RANDOM.integers(0, 3, len(TEXTS))
    sampler = Sampler(copies, 3)
    batches = drawn(pa.chunked_array([TEXTS[:150], TEXTS[150:]]), sampler, passes=2)
    every = [TEXTS[number] for number in sampler.documents(np.arange(2 * len(sampler)))]
    assert [text for batch in batches(0) for text in batch.to_pylist()] == every
    assert [text for batch in batches(123) for text in batch.to_pylist()] == every[123:]


def test_fertility_is_counted_by_hand(tokenizer):
    texts = ["one two  three", "中文 字", "four"]
    by = {line.language: line for line in fertility(tokenizer, texts, ["en", "zh", "en"])}
    tokens = [len(tokenizer.encode([text]).tokens) for text in texts]
    assert (by["en"].documents, by["en"].size_bytes, by["en"].tokens) == (2, 18, tokens[0] + tokens[2])
    assert by["en"].tokens_per_word == round((tokens[0] + tokens[2]) / 4, 4)
    assert by["zh"].tokens_per_char == round(tokens[1] / 4, 4)
    assert by["zh"].bytes_per_token == round(10 / tokens[1], 4)
