"""Shards divided: what is kept aside has no loss, is in no sequence that is seen, and counts all its bytes."""

import numpy as np
import pyarrow as pa
import pytest

from gyral.config.curation import Tokens
from gyral.lake.tokens import PADDING, TokenShards
from gyral.model.shards import Shards, digest_of_tokens, encoded

pytest.importorskip("tokenizers")
from gyral.curate import tokens as curate_tokens
from gyral.curate.packing import write_shards
from gyral.model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def texts():
    words = ["gyre", "turns", "what", "it", "carries", "comes", "back", "another", "day", "größe", "日本", "and", "number"]
    random = np.random.default_rng(0)
    found = [" ".join(random.choice(words, int(size))) + f" {n}" for n, size in enumerate(random.integers(3, 150, 120))]
    return [*found, found[3], found[77]]  # copies, as a mixture has them


@pytest.fixture(scope="module", params=["concatenated", "best_fit"])
def made(request, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    settings = Tokens(vocab_size=400, packing=request.param, sequence_tokens=72, shard_tokens=4_000)
    tokenizer = curate_tokens.train([pa.array(texts)], settings)
    write_shards(folder, lambda first: [tokenizer.encode(texts[first:])], tokenizer, settings)
    shards = TokenShards(folder)
    assert len(shards.manifest.shards) > 1
    return shards, Tokenizer.load(folder)


def test_each_document_is_on_one_side(made, texts):
    shards, tokenizer = made
    divided = Shards(shards, 0.2)
    aside = np.flatnonzero(divided.is_aside)
    assert 10 < len(aside) < 45
    assert divided.is_aside[3] == divided.is_aside[120] and divided.is_aside[77] == divided.is_aside[121]
    length = 72
    seen = []
    for position in range(divided.num_sequences(length)):
        tokens, documents = divided.sequences(np.array([position]), length)
        targets, owners = tokens[0, 1:], documents[0, 1:]
        assert not set(owners.tolist()) & set(aside.tolist())
        begins = np.flatnonzero(np.diff(owners, prepend=-9))
        seen += [(int(owners[at]), targets[at:end]) for at, end in zip(begins, [*begins[1:], length], strict=True)]
    for owner in {owner for owner, _ in seen if owner != PADDING}:
        body = tokenizer.encode([texts[owner]]).tokens
        parts = np.concatenate([part for number, part in seen if number == owner])
        assert set(parts.tolist()) <= {*body.tolist(), shards.manifest.eos}
    trained = [number for number in range(len(texts)) if number not in set(aside.tolist())]
    if shards.manifest.packing == "concatenated":  # the stream is exactly what is left
        stream = np.concatenate([[*tokenizer.encode([texts[number]]).tokens, shards.manifest.eos] for number in trained])
        got = np.concatenate([part for _, part in seen])
        np.testing.assert_array_equal(got, stream[: len(got)])
        assert len(stream) - len(got) < length
    else:
        assert {owner for owner, _ in seen if owner != PADDING} == set(trained)


def test_what_is_measured_is_the_text_of_those(made, texts):
    shards, tokenizer = made
    divided = Shards(shards, 0.2)
    held_out = divided.held_out(tokenizer, 1 << 30)
    distinct = {texts[number] for number in np.flatnonzero(divided.is_aside)}
    assert held_out.num_bytes == sum(len(text.encode()) for text in distinct)
    tokens, _ = held_out.rows(np.array([0]), len(held_out))
    bodies = np.split(tokens[0, 1:], held_out.ends[:-1])
    assert {tokenizer.decode(body[:-1]) for body in bodies} == distinct
    few = divided.held_out(tokenizer, 500)
    assert 0 < few.num_bytes <= 500 or len(few.ends) == 1


def test_a_dataset_may_say_itself_what_is_kept_aside(made, texts):
    shards, tokenizer = made
    chosen = encoded([texts[5], texts[3]], tokenizer, shards.manifest.eos)
    rows, _ = chosen.rows(np.array([0]), len(chosen))
    aside = {digest_of_tokens(body) for body in np.split(rows[0, 1:], chosen.ends[:-1])}
    divided = Shards(shards, 0.2, aside)
    assert np.flatnonzero(divided.is_aside).tolist() == [3, 5, 120]
