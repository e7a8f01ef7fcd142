import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gyral.curate.near import compatible_kernel, shingle_kernel
from gyral.curate.near.shingle import HAN, SPACELESS, Shingles, fold_table, powers, shingle_sets
from gyral.curate.stage import utf8

TEXTS = st.text(
    st.one_of(
        st.sampled_from("abcABC 019 .,-_'\n\t  éÉßçñ"),
        st.sampled_from("日本語中文かなสวัสดีខ្មែรမြန်"),
        st.sampled_from("ДдйЙΣσςἀअनुवादعرب한국\u00ad\u200d\u0301"),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=200,
)


def tokens_of(text):
    """Words and characters, by a reading of the rules that shares nothing with the kernel."""
    words, word = [], ""
    for char in text:
        folded = unicodedata.normalize("NFD", char.lower())
        folded = "".join(c for c in folded if not 0x300 <= ord(c) <= 0x36F).replace("ς", "σ")
        folded = folded if len(folded) == 1 else (char.lower() if len(char.lower()) == 1 else char)
        if is_passed_over(ord(char)):
            continue
        if ord(char) < 0x20000 and (unicodedata.category(char)[0] in "PSZ" or unicodedata.category(char) == "Cc"):
            words, word = [*words, word], ""
        elif is_han(ord(char)) or is_in(ord(char), SPACELESS):
            words, word = [*words, word, (char,)], ""
        else:
            word += folded if ord(char) < 0x20000 else char
    return [each for each in [*words, word] if each]


def is_passed_over(code):
    if code >= 0x20000:
        return 0xE0000 <= code < 0xF0000
    return 0x300 <= code <= 0x36F or 0xFE00 <= code <= 0xFE0F or unicodedata.category(chr(code)) == "Cf"


def is_in(code, blocks):
    return any(first <= code <= last for first, last in blocks)


def is_han(code):
    return 0x20000 <= code < 0x32400 or is_in(code, HAN)


def windows_of(tokens, words, chars):
    """Each shortest run up to an end that weighs enough, as a tuple."""
    weights = [2 * chars if isinstance(token, str) else 2 * words if is_han(ord(token[0])) else words for token in tokens]
    found = []
    for end in range(1, len(tokens) + 1):
        begin = end
        while begin > 0 and sum(weights[begin:end]) < 2 * words * chars:
            begin -= 1
        if sum(weights[begin:end]) >= 2 * words * chars:
            found.append(tuple(tokens[begin:end]))
    return found


def hashes_of(text, words=5, chars=6, room=10_000):
    data = np.frombuffer(text.encode() or b"\0", np.uint8)
    state = np.zeros(shingle_kernel.STATE, np.uint64)
    ring, found = np.zeros((2, shingle_kernel.RING), np.uint64), []
    while True:
        out = np.empty(room, np.uint64)
        num = shingle_kernel.shingle(
            data, np.uint64(len(text.encode())), state, ring, fold_table(), powers(), np.uint64(words), np.uint64(chars), out
        )
        found += out[:num].tolist()
        if num < room:
            return found


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(1, 7), st.integers(1, 20))
@example(["one two three four five six one two three four five"], 5, 6)
@example(["日本語のテキスト and some words 日本語のテキスト and"], 2, 3)
def test_equal_runs_of_tokens_and_only_they_have_equal_hashes(texts, words, chars):
    names, seen = {}, {}
    for text in texts:
        windows = windows_of(tokens_of(text), words, chars)
        hashes = hashes_of(text, words, chars)
        if not windows:
            assert len(hashes) == (1 if text else 0)
            continue
        assert len(hashes) == len(windows)
        for window, value in zip(windows, hashes, strict=True):
            assert names.setdefault(window, value) == value
            assert seen.setdefault(value, window) == window


def test_what_is_folded_away():
    base = hashes_of("Cafe noir et autres recits du soir")
    assert hashes_of("CAFÉ, «noir» — et\nautres récits du soir!") == base
    assert hashes_of(unicodedata.normalize("NFD", "café noir et autres récits du soir")) == base
    assert hashes_of("ca\u00adfe no\u200bir et autres recits du soir") == base
    assert hashes_of("Kafe noir et autres recits du soir") != base
    assert hashes_of("ΛΌΓΟΣ ένας δύο τρία τέσσερα") == hashes_of("λόγος ενας δυο τρια τεσσερα")
    assert hashes_of("longerthaneight b c d e") != hashes_of("longerthaneighx b c d e")


def test_short_and_empty_texts():
    assert len(hashes_of("two words")) == 1
    assert hashes_of("two words") == hashes_of("Two, words.")
    assert hashes_of("two words") != hashes_of("two word")
    assert len(hashes_of("!?!")) == 1
    assert hashes_of("!?!") != hashes_of("?!?")
    assert hashes_of("") == []


@settings(deadline=None)
@given(TEXTS, st.integers(1, 5))
def test_a_scan_goes_on_where_it_stopped(text, room):
    assert hashes_of(text, 3, 4, room) == hashes_of(text, 3, 4)


def test_cut_off_utf8_ends_within_the_text():
    for tail in (b"\xe6", b"\xe6\x97", b"\xf0\x9f\x98", b"\xc3", b"\xff\xfe", b"\x80"):
        data = np.frombuffer(b"some words here " + tail + b"\xe6\x97\xa5", np.uint8)
        out, state = np.empty(9, np.uint64), np.zeros(shingle_kernel.STATE, np.uint64)
        end = np.uint64(len(data) - 3)
        ring, one = np.zeros((2, shingle_kernel.RING), np.uint64), np.uint64(1)
        num = shingle_kernel.shingle(data, end, state, ring, fold_table(), powers(), one, one, out)
        assert num >= 3
        assert state[0] == end


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.integers(1, 4))
def test_distinct_is_the_sorted_set(values, times):
    hashes = np.array(values * times, np.uint64)
    num = shingle_kernel.distinct(hashes, np.empty(len(hashes), np.uint64))
    assert hashes[:num].tolist() == sorted(set(values))


def test_distinct_of_many_and_of_what_is_not_uniform():
    rng = np.random.default_rng(1)
    for hashes in (
        rng.integers(0, 2**64, 2_000_000, dtype=np.uint64),
        rng.integers(0, 50, 30_000, dtype=np.uint64),
        rng.integers(0, 2**64, 3_000, dtype=np.uint64).repeat(7),
    ):
        expected = np.unique(hashes)
        num = shingle_kernel.distinct(hashes, np.empty(len(hashes), np.uint64))
        assert np.array_equal(hashes[:num], expected)


def test_sets_of_a_batch_are_those_of_its_texts():
    texts = ["one two three four five six", None, "", "日本語のテキストを読みます", "short", "a b c d e " * 40]
    array = pa.array(["before", *texts], pa.string()).slice(1)
    for how in (Shingles(), Shingles(2, 3), Shingles(5, 5, "datatrove")):
        hashes, ends = shingle_sets(array, how)
        begins = [0, *ends.tolist()]
        for text, (begin, end) in zip(texts, pairwise(begins), strict=True):
            alone, (size,) = shingle_sets(pa.array([text], pa.string()), how)
            assert hashes[begin:end].tolist() == alone[:size].tolist() == sorted(set(alone.tolist()))
    assert shingle_sets(pa.array([], pa.string()), Shingles())[0].tolist() == []
    assert begins[-1] == len(hashes)
    whole = shingle_sets(array, Shingles())[0]
    assert set(whole.tolist()) == {value for text in texts for value in hashes_of(text or "")}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_xxh64_is_the_published_one(data):
    array = np.frombuffer(b"x" + data + b"y", np.uint8)
    assert int(compatible_kernel.xxh64(array, 1, 1 + len(data))) == xxhash.xxh64_intdigest(data)


def test_scripts_are_cut_as_they_are_written():
    spaceless = (
        "HIRAGANA LETTER",
        "KATAKANA LETTER",
        "THAI CHARACTER",
        "LAO LETTER",
        "KHMER LETTER",
        "MYANMAR LETTER",
    )
    spaced = (
        "LATIN SMALL",
        "CYRILLIC SMALL",
        "GREEK SMALL",
        "ARABIC LETTER",
        "HEBREW LETTER",
        "DEVANAGARI LETTER",
        "HANGUL SYLL",
    )
    kinds = fold_table() >> 24
    for names, kind in ((spaceless, {4}), (("CJK UNIFIED",), {2}), (spaced, {1})):
        for name in names:
            codes = [code for code in range(0x20000) if unicodedata.name(chr(code), "").startswith(name)]
            assert len(codes) > 20
            letters = [code for code in codes if unicodedata.category(chr(code))[0] == "L"]
            assert set(kinds[letters].tolist()) == kind, name


def test_offsets_of_a_slice_are_places_in_its_buffer():
    array = pa.array(["skipped", "kept"]).slice(1)
    data, offsets = utf8(array)
    assert data[offsets[0] : offsets[1]].tobytes() == b"kept"
