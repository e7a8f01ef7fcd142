import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from gyral.config.curation import Dedup
from gyral.curate.near import minhash_kernel
from gyral.curate.near.minhash import MinHash, functions, keys_of
from gyral.curate.near.shingle import PUNCTUATION, shingle_sets, simplify


def batch_of(texts):
    return pa.record_batch({"text": pa.array(texts, pa.string())})


def test_the_minima_are_those_of_numpy():
    a, b = functions(112, 1)
    x = np.random.default_rng(3).integers(0, 1 << 32, 40, dtype=np.uint32)
    least = np.full(112, 2**32 - 1, np.uint32)
    minhash_kernel.lower(x, 24, a, b, least)
    minhash_kernel.lower(x[24:], 16, a, b, least)
    values = (a.astype(object)[:, None] * x.astype(object)[None, :] + b.astype(object)[:, None]) % (1 << 32)
    assert least.tolist() == values.min(axis=1).tolist()


def test_functions_differ_and_never_change():
    a, b = functions(112, 1)
    assert len(set(zip(a.tolist(), b.tolist(), strict=True))) == 112
    assert (a % 2 == 1).all()
    assert functions(112, 2)[0].tolist() != a.tolist()
    # SplitMix64 of these seeds, worked out once in plain Python: a changed function would make stored indexes useless.
    state = (0x632BE59BD9B4E019 + 0x9E3779B97F4A7C15) % 2**64
    value = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    value ^= value >> 31
    assert (int(a[0]), int(b[0])) == (value >> 32 | 1, value % 2**32)


def test_keys_follow_from_the_set_alone():
    texts = ["a b c d e f g", "A b, c d e f g!", "a b c d e f g a b c d e f g", "b c d e f g h"]
    keys, counts = MinHash().sign(pa.array(texts))
    assert counts.tolist() == [3, 3, 10, 3]
    assert keys[0].tolist() == keys[1].tolist()
    assert keys[0].tolist() != keys[3].tolist()
    assert len(set(keys[0].tolist())) == 14
    # A text longer than the kernel's buffer, against its set in one piece
    long = " ".join(f"w{number % 1_500}" for number in range(4_000))
    short = " ".join(f"w{number % 1_500}" for number in range(1_504))
    keys, counts = MinHash().sign(pa.array([long, short]))
    assert counts.tolist() == [3_996, 1_500]
    assert keys[0].tolist() == keys[1].tolist()


def test_the_stage_adds_two_columns_and_leaves_the_rest():
    batch = batch_of(["one two three four five six", None, "", "?", "日本語のテキストを読みました"])
    result = MinHash()(batch)
    assert result.schema.names == ["text", "bands", "num_shingles"]
    assert result.schema.field("bands").type == pa.binary(112)
    assert result.schema.field("num_shingles").type == pa.int32()
    assert result.column("num_shingles").to_pylist() == [2, 0, 0, 1, 6]
    assert result.column("bands")[1].as_py() == bytes(112)
    assert result.column("text").equals(batch.column("text"))
    sliced = MinHash()(batch.slice(3))
    assert sliced.column("bands").to_pylist() == result.column("bands").to_pylist()[3:]
    keys = MinHash().sign(batch.column("text"))[0]
    assert np.array_equal(keys_of(result.column("bands")), keys)
    assert np.array_equal(keys_of(result.column("bands").slice(2, 3)), keys[2:5])


def test_settings_reach_the_stage():
    stage = MinHash.of(Dedup(bands=3, rows=2, shingle_words=1, shingle_chars=2))
    assert stage(batch_of(["one two"])).schema.field("bands").type == pa.binary(24)
    assert stage.sign(pa.array(["one two", "日本語"]))[1].tolist() == [2, 2]
    assert MinHash(seed=2).sign(pa.array(["x"]))[0].tolist() != MinHash(seed=1).sign(pa.array(["x"]))[0].tolist()


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9])
def test_pairs_are_found_as_often_as_theory_says(similarity):
    """1 − (1 − J⁸)¹⁴, over 1,500 pairs of random sets; the tolerance is four standard deviations."""
    rng, num = np.random.default_rng(int(100 * similarity)), 300
    shared = round(num * 2 * similarity / (1 + similarity))
    found = 0
    stage = MinHash(shingle_words=1)
    for _ in range(30):
        texts = []
        for _ in range(50):
            words = [f"{value:x}" for value in rng.integers(0, 1 << 60, 2 * num - shared)]
            texts += [" ".join(words[:num]), " ".join(words[num - shared :])]
        keys = stage.sign(pa.array(texts))[0]
        found += int((keys[::2] == keys[1::2]).any(axis=1).sum())
    exact = shared / (2 * num - shared)
    expected = 1 - (1 - exact**8) ** 14
    assert abs(found / 1_500 - expected) < 4 * (expected * (1 - expected) / 1_500) ** 0.5 + 0.004


# datatrove's own lines of numpy and Python, from its documented definitions, as the oracle of the compatible mode
def datatrove_text(text):
    text = re.sub(r"\d+([.,،٫⎖⎗⎘]{1}\d+)?", "0", text.lower())
    text = text.translate(str.maketrans(PUNCTUATION, " " * len(PUNCTUATION)))
    text = re.sub(r"\s+", " ", text.strip())
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn").strip()


def datatrove_signature(words):
    prime = (1 << 61) - 1
    random = np.random.RandomState(1)
    a = random.randint(1, prime, dtype=np.uint64, size=(1, 112))
    b = random.randint(0, prime, dtype=np.uint64, size=(1, 112))
    hashed = [xxhash.xxh64_intdigest(" ".join(words[at : at + 5]).encode()) for at in range(len(words) - 4)]
    shingles = np.array(hashed, np.uint64).reshape(-1, 1)
    return ((shingles * a + b) % np.uint64(prime)).min(axis=0).tolist()


def test_compatible_signatures_are_those_of_datatrove():
    texts = [
        "It cost 3.14 dollars, or ١٢٫٥ in Arabic digits: the café's price, twice 1,000!",
        "Ñandú naïve façade coöperate — Übergröße ÅNGSTRÖM İstanbul Ǆ straße one two",
        "a b c d e f g h i j " * 30,
        "한국어 텍스트 도 여기 있습니다 그리고 더 많은 단어",
    ]
    assert simplify(pa.array(texts)).to_pylist() == [datatrove_text(text) for text in texts]
    keys, counts, least = MinHash(compatible="datatrove").minima(pa.array([*texts, "only four words here", ""]))
    for row, text in enumerate(texts):
        words = datatrove_text(text).split()
        assert counts[row] == len(words) - 4
        assert least[row].tolist() == datatrove_signature(words)
    assert counts[4:].tolist() == [0, 0]
    assert not keys[4:].any()
    hashes, ends = shingle_sets(pa.array(texts[:1]), MinHash(compatible="datatrove").shingles)
    words = datatrove_text(texts[0]).split()
    assert hashes[: ends[0]].tolist() == sorted(
        xxhash.xxh64_intdigest(" ".join(words[n : n + 5]).encode()) for n in range(len(words) - 4)
    )
