"""The probe: the model is the textbook's, what is held out stays unseen, and known changes of a corpus are called rightly."""

import lzma
import math
import pydoc_data.topics
import re
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate.probe import Ngrams, Shared, probe
from gyral.errors import InputError

pytest.importorskip("numba")
ENGLISH = [part for _, part in sorted(pydoc_data.topics.topics.items()) if len(part) > 400]


def oracle(train, held_out, order):
    """Interpolated Kneser–Ney over sets of whole n-grams, by its definition: two passes, nothing hashed."""
    padded = [bytes(order) + text for text in train]
    raw = defaultdict(int)
    for text in padded:
        for end in range(order + 1, len(text) + 1):
            raw[text[end - order : end]] += 1
    counts = {order: dict(raw)}
    for length in range(order - 1, 0, -1):  # in how many ways a gram is preceded
        counts[length] = defaultdict(int)
        for gram in counts[length + 1]:
            counts[length][gram[1:]] += 1
    discounts, totals, kinds = {}, {}, {}
    for length, grams in counts.items():
        once, twice = (sum(value == times for value in grams.values()) for times in (1, 2))
        discounts[length] = min(max(once / max(once + 2 * twice, 1), 0.1), 0.95)
        totals[length], kinds[length] = defaultdict(int), defaultdict(int)
        for gram, value in grams.items():
            totals[length][gram[:-1]] += value
            kinds[length][gram[:-1]] += 1

    def chance(context, byte, length):
        if length == 0:
            return 1 / 256
        short = context[len(context) - length + 1 :]
        lower = chance(context, byte, length - 1)
        total = totals[length][short]
        if not total:
            return lower
        value = counts[length].get(short + byte, 0)
        return (max(value - discounts[length], 0) + discounts[length] * kinds[length][short] * lower) / total

    found = []
    for text in held_out:
        text = bytes(order) + text
        found.append(-sum(math.log2(chance(text[at - order : at], text[at : at + 1], order)) for at in range(order, len(text))))
    return found


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abc é", min_size=1, max_size=60), min_size=1, max_size=6), st.text("abc é", min_size=1, max_size=40))
def test_it_counts_as_the_textbook_does(train, held_out):
    for order in (1, 3, 7):
        model = Ngrams([pa.array(train)], order=order)
        want = oracle([text.encode() for text in train], [held_out.encode(), b"zz"], order)
        np.testing.assert_allclose(model(pa.array([held_out, "zz"])), want, rtol=1e-9)


def test_it_counts_real_text_as_the_textbook_does():
    train, held_out = ENGLISH[:12], ENGLISH[40:42]
    model = Ngrams([pa.array(train[:5]), pa.array(train[5:])])
    want = oracle([text.encode() for text in train], [text.encode() for text in held_out], 7)
    np.testing.assert_allclose(model(pa.array(held_out)), want, rtol=1e-9)


def test_chances_of_all_bytes_sum_to_one():
    """A byte costs log2 p: over all 128 ASCII bytes and a two-byte letter the chances may not pass 1, and come near it."""
    model = Ngrams([pa.array(ENGLISH[:20])])
    context = "the value of th"
    base = model(pa.array([context]))[0]
    after = model(pa.array([context + chr(byte) for byte in range(128)]))
    assert 0.95 < (2.0 ** -(after - base)).sum() <= 1 + 1e-9


def test_bits_are_about_those_of_a_compressor():
    held_out, train, _ = corpus()
    got = Ngrams([pa.array(train)])(pa.array(held_out)).sum()
    known, both = "\n".join(train).encode(), "\n".join(train + held_out).encode()
    xz = (len(lzma.compress(both, preset=9)) - len(lzma.compress(known, preset=9))) * 8
    assert 0.8 * xz < got < 1.1 * xz


def test_a_table_that_is_full_still_learns_short_grams():
    random = np.random.default_rng(0)
    noise = ["".join(chr(65 + each) for each in random.integers(0, 26, 200_000))]
    model = Ngrams([pa.array(noise + ENGLISH[:5])], size_bytes=1)
    empty = Ngrams([pa.array(["x"])], size_bytes=1)
    bits = model(pa.array(ENGLISH[:5]))
    assert np.isfinite(bits).all()
    assert bits.sum() < 0.8 * empty(pa.array(ENGLISH[:5])).sum()
    assert bits.sum() > 1.5 * Ngrams([pa.array(noise + ENGLISH[:5])])(pa.array(ENGLISH[:5])).sum()


def grams(text, window=13):
    """Windows of words as the plain reading of the definition, lower case, runs of wide characters cut after four."""
    found = re.findall(rb"[0-9A-Za-z]+|(?:[\xc0-\xff][\x80-\xbf]*){1,4}", text)
    return {tuple(word.lower() for word in found[at : at + window]) for at in range(len(found) - window + 1)}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nothing_of_the_held_out_text_is_left(data):
    word = st.sampled_from(["a", "b", "C", "dd", "日本語文字列", "é", "7"])
    held = [" ".join(data.draw(st.lists(word, max_size=40))) for _ in range(2)]
    own = [" ".join(data.draw(st.lists(word, max_size=20))) for _ in range(2)]
    text = f"{own[0]} {held[0]} {own[1]}".encode()
    shared = Shared(pa.array(held))
    parts = shared.without(text)
    is_clean = text.decode() not in held
    for each in held:
        window = 13 if grams(each.encode(), 13) else 8
        known = grams(each.encode(), window)
        is_clean &= not grams(text, window) & known
        for part in parts:
            assert not grams(part, window) & known
    assert not is_clean or parts == [text]
    assert all(part in text for part in parts)


def test_only_the_shared_passage_is_cut():
    passage = " ".join(f"word{n}" for n in range(20))
    shared = Shared(pa.array([f"before {passage} after", "short text"]))
    assert shared.without(f"Mine, mine. {passage.upper()}! And more.".encode()) == [b"Mine, mine. ", b"! And more."]
    assert shared.without(b"short text") == []
    assert shared.without(b"short text and more") == [b"short text and more"]
    assert shared.without(" ".join(f"word{n}" for n in range(12)).encode()) != []


def corpus():
    """Clean text, and the same with two kinds of junk."""
    random = np.random.default_rng(0)
    paragraphs = sorted({part.strip() for text in ENGLISH for part in re.split(r"\n\s*\n", text) if len(part) > 100})
    random.shuffle(paragraphs)
    held_out, clean = paragraphs[:250], paragraphs[250:]
    junk = ["".join(random.choice(list("abcdefghijklmnopqrstuvwxyz 0123456789"), 400)) for _ in range(len(clean))]
    return held_out, clean, junk


def test_it_calls_known_changes_rightly():
    held_out, clean, junk = corpus()
    doubled = [text for text in clean[: len(clean) // 4] for _ in range(4)]
    budget = sum(len(text.encode()) for text in clean[: len(clean) // 4]) * 3
    rows = probe(
        {
            "clean": [pa.array(clean)],
            "junk": [pa.array(clean + junk)],
            "repeated": [pa.array(doubled)],
            "clean, other batches": [pa.array(clean[:7]), pa.array(clean[7:])],
        },
        pa.array(held_out),
        budget_bytes=budget,
    )
    by = {row.name: row for row in rows}
    assert rows[0].name == "clean"
    assert len({row.bytes for row in rows}) == 1 and rows[0].bytes <= budget
    assert by["junk"].change_low > 0.02
    assert by["repeated"].change_low > 0.02
    assert by["clean, other batches"].change == 0
    assert all(row.low < row.bits_per_byte < row.high for row in rows)
    # Pairs are worth it: the interval of the change is far narrower than that of the value.
    assert (by["junk"].change_high - by["junk"].change_low) < 0.5 * (by["junk"].high - by["junk"].low)


def test_a_stage_that_removes_junk_is_told_from_one_that_removes_at_random():
    held_out, clean, junk = corpus()
    texts = clean + junk
    chance = np.random.default_rng(1).random(len(texts)) < 0.2
    is_junk, every = np.arange(len(texts)) >= len(clean), pa.array(texts)
    kept = {"raw": chance | True, "result": ~is_junk & ~chance, "without junk": ~chance, "without chance": ~is_junk}
    variants = {name: [every.filter(pa.array(mask))] for name, mask in kept.items()}
    rows = {row.name: row for row in probe(variants, pa.array(held_out))}
    assert rows["result"].change_high < -0.02
    assert rows["without junk"].bits_per_byte - rows["result"].bits_per_byte > 0.02
    assert abs(rows["without chance"].bits_per_byte - rows["result"].bits_per_byte) < 0.02


def test_training_on_the_held_out_text_gains_nothing():
    held_out, clean, _ = corpus()
    rows = probe({"clean": [pa.array(clean)], "cheating": [pa.array(held_out * 3 + clean)]}, pa.array(held_out))
    clean_row, cheating = rows
    assert cheating.shared_bytes - clean_row.shared_bytes == 3 * sum(len(text.encode()) for text in held_out)
    assert cheating.change == 0
    held_out = [text for text in held_out if grams(text.encode(), 8)]
    hidden = [f"{first} {second}" for first, second in pairwise(held_out)]
    rows = probe({"clean": [pa.array(clean)], "hidden": [pa.array(hidden + clean)]}, pa.array(held_out))
    assert abs(rows[1].change) < 0.005
    told = Ngrams([pa.array(clean + hidden)])(pa.array(held_out)).sum() / sum(len(text.encode()) for text in held_out)
    assert rows[0].bits_per_byte - told > 0.5  # what it would have gained


def test_a_full_size_probe_reads_all_and_equal_sizes_are_those_of_the_smallest():
    held_out, clean, _ = corpus()
    variants = {"a": [pa.array(clean)], "b": [pa.array(clean[:100])]}
    full = probe(variants, pa.array(held_out), budget_bytes=0)
    equal = probe(variants, pa.array(held_out))
    assert full[0].bytes > 3 * full[1].bytes
    assert equal[0].bytes == equal[1].bytes == full[1].bytes
    assert equal[0].bits_per_byte > full[0].bits_per_byte


def test_a_users_trainer_is_asked():
    asked = []

    def trainer(texts):
        asked.append(sum(len(text) for batch in texts for text in batch.to_pylist()))
        return lambda held_out: np.full(len(held_out), 8.0)

    rows = probe({"a": [pa.array(["some text"] * 9)]}, pa.array(["12345678", "1234"]), budget_bytes=20, trainer=trainer)
    assert asked == [20]
    assert rows[0].bits_per_byte == pytest.approx(16 / 12)


def test_what_cannot_be_probed_is_said():
    with pytest.raises(InputError, match="two documents"):
        probe({"a": [pa.array(["x"])]}, pa.array(["only one", ""]))
    with pytest.raises(InputError, match="`a` has no text"):
        probe({"a": [pa.array(["same", None])]}, pa.array(["same", "other"]))
