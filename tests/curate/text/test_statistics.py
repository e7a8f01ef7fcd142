"""The counts of texts, against plain Python with regular expressions."""

import hashlib
import inspect
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config import Config
from gyral.config.curation import C4, Quality
from gyral.curate.text import affixes_kernel, special, statistics_kernel, tokenize_kernel, words_kernel
from gyral.curate.text.counts import COUNTS
from gyral.curate.text.heuristics import STOP_WORDS
from gyral.curate.text.statistics import BLOCK_BYTES, CUT_LINES, Statistics
from gyral.errors import ConfigError

from .oracle import statistics, words_of

STRICT = Statistics(filter_no_terminal_punct=True, max_word_length=20, short_line_length=12)
WHOLE = Statistics(cut_lines=False)
FRAGMENTS = """
don't Don’t can't-won't it's he's John's (U.S. U.S.A. e.g. e.g., i.e.) Mr. Smith's word
word. word, Word! "quoted" 'single' “curly” ... .... … #tag ## C# C++ a.b foo.Bar foo.bar
foo-bar foo--bar 3-4 3-D COVID-19 10km 5GB 100% $5.00 5$ US$7 +1 1+ 1+1 :) :-) ):
http://a.com/b-c https://example.org:80/x?y=z me@host.org x@y www.gnu.org/foo-bar a,b a,B
1,000 key=value a/b 9am 12p.m. [1] [edit] [12]. [] [citation needed] {x} lorem Lorem ipsum
javascript JavaScript: privacy policy Terms of use uses cookies cookie Policy the The be
to of and that have with 日本語です。 東京 タワー ไทย ภาษา ลาว ខ្មែរ。 မြန်မာ། é naïve Ünïcödé ß α.Β
привет — – -- - -x • •x ~ ~x a~b » « x² °C ½ ☃ a☃b \x00 \x1f 𝐱 𠀀𠀁
""".split()  # noqa: SIM905
SPACES = st.sampled_from(
    [" "] * 12 + ["\n"] * 4 + ["  ", "\n\n", "\n\n\n", "\t", "\r\n", "\x85", "\u2028", "\x0b", "\xa0", " \n ", "\n\n ", ""]
)
TEXTS = st.lists(st.tuples(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), SPACES), max_size=60).map(
    lambda parts: "".join(word + space for word, space in parts)
)
FEW = st.lists(st.sampled_from(["a", "b", "a b.", "\n", "c,", "the"]), max_size=80).map(" ".join)


def counted(texts, stage, **columns):
    batch = stage(pa.record_batch({"text": pa.array(texts, pa.string()), **columns}))
    return [{name: batch.column(name)[row].as_py() for name in batch.schema.names} for row in range(len(texts))]


def check(texts, stage):
    for text, found in zip(texts, counted(texts, stage), strict=True):
        wanted, cuts = statistics(text, stage, STOP_WORDS)
        assert {name: found[name] for name in COUNTS} == {name: wanted[name] for name in COUNTS}, text
        assert found.get(CUT_LINES, []) == cuts, text


@pytest.mark.parametrize("stage", [Statistics(), STRICT, WHOLE], ids=["default", "strict", "whole"])
def test_every_count_is_that_of_plain_python(stage):
    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.one_of(TEXTS, FEW), min_size=1, max_size=4))
    def holds(texts):
        check(texts, stage)

    holds()


def test_words_are_those_of_spacy():
    """What spaCy 3.8 `blank("en")` says of these, recorded."""
    told = {
        "I don't think he'll've gone.": "I do n't think he 'll 've gone .",
        "(e.g., the U.S. economy)": "( e.g. , the U.S. economy )",
        "A well-known foo.Bar, v1.2": "A well - known foo . Bar , v1.2",
        "See http://a.com/b-c?d=e.": "See http://a.com/b-c?d=e .",
        "It's $5.00 or 10km...": "It 's $ 5.00 or 10 km ...",
        "and/or either/or key=value": "and/or either / or key = value",
        "“Smith’s” C++ cannot 9am": "“ Smith ’s ” C++ can not 9 am",
        "me@host.org: 3-4, 3-D, COVID-19": "me@host.org : 3 - 4 , 3 - D , COVID-19",
        "Mr. X. Dr. ABC. end.": "Mr. X. Dr. ABC . end .",
    }
    assert {text: " ".join(words_of(text)) for text in told} == told
    found = counted(list(told), WHOLE)
    assert [row["num_words"] for row in found] == [len(words.split()) for words in told.values()]


def test_texts_of_many_blocks_are_counted_as_each_alone():
    texts = [f"word{number} is here. " * (number % 700) for number in range(600)]
    together = counted(texts, Statistics())
    assert sum(map(len, texts)) > 4 * BLOCK_BYTES
    for number in (1, 255, 256, 599):
        assert counted([texts[number]], Statistics())[0] == together[number]
    sliced = Statistics()(pa.record_batch({"text": texts}).slice(100, 50))
    assert sliced.column("num_words").to_pylist() == [row["num_words"] for row in together[100:150]]


def test_no_text_has_no_counts_and_an_empty_one_has_none_of_anything():
    none, empty = counted([None, ""], Statistics())
    assert {none[name] for name in (*COUNTS, CUT_LINES)} == {None}
    assert {name: value for name, value in empty.items() if value} == {"num_text_lines": 1, "num_paragraphs": 1}
    assert Statistics()(pa.record_batch({"text": pa.array([], pa.string())})).num_rows == 0


def test_a_cut_takes_blank_lines_behind_it_and_what_is_left_can_be_read():
    text = "Home\n\nThe first line is kept.\nMenu\nLogin\n\nThe second line is kept.\n\nThe third one [1] too.\nEnd"
    (found,) = counted([text], Statistics())
    assert found["num_few_word_lines"] == 4 and found["num_left_breaks"] == 2 and found["num_sentences"] == 3
    data, left = text.encode(), b""
    places = [0, *found[CUT_LINES], len(data)]
    for begin, end in zip(places[::2], places[1::2], strict=True):
        left += data[begin:end]
    assert left.decode() == "The first line is kept.\nThe second line is kept.\n\nThe third one [1] too.\n"


def test_stop_words_are_those_of_the_language():
    stage = Statistics.of(Config(quality=Quality(stop_words={"de": ["und", "der", "die"]})))
    text = "und der the of die die"
    found = counted([text] * 4, stage, language=["de", "en", "fr", None])
    assert [row["num_stop_words"] for row in found] == [3, 2, None, None]
    assert counted([text], stage)[0]["num_stop_words"] == 2
    with pytest.raises(ConfigError, match="65 stop words"):
        Statistics.of(Config(quality=Quality(stop_words={"de": [str(number) for number in range(65)]})))
    every = [chr(0x61 + number % 26) * (1 + number // 26) for number in range(64)]
    full = Statistics.of(Config(quality=Quality(stop_words={"en": every})))
    assert counted([" ".join(every)], full)[0]["num_stop_words"] == 64


HOSTILE = {
    "one line": "x" * 5_000_000,
    "zeros": "\x00" * 2_000_000,
    "a million lines": "a\n" * 1_000_000,
    "words of one letter": "a " * 1_500_000,
    "marks": "!" * 2_000_000,
    "dots": "a." * 1_000_000,
    "quotes around": "'" * 300_000 + "x" + "'s" * 300_000,
    "addresses": "http://" + "a@" * 1_000_000,
    "infixes": "a-" * 1_000_000 + "a",
    "brackets": "[" * 1_000_000 + "]",
    "han": "字" * 700_000,
    "joined marks": "ก" + "\u0e34" * 700_000,
    "line breaks of all kinds": "\r\n\x85\u2028\x0b" * 200_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_bounded_time(text):
    counted(["warm up"], Statistics())
    start = time.process_time()
    (found,) = counted([text], Statistics())
    assert time.process_time() - start < 3
    assert found["num_chars"] == len(text)


def test_the_kernel_is_compiled_again_when_the_tokenizer_changes():
    """numba looks at the file of the function it compiles alone."""
    sources = "".join(map(inspect.getsource, (words_kernel, affixes_kernel, tokenize_kernel)))
    assert hashlib.md5(sources.encode(), usedforsecurity=False).hexdigest() == statistics_kernel.TOKENIZER


def test_special_chunks_are_what_their_words_are_joined():
    found = special.pieces()
    assert all("".join(words) == chunk for chunk, words in found.items()) and len(found) > 1000
    assert max(len(words) for words in found.values()) == 3 and max(len(chunk.encode()) for chunk in found) <= 16


def test_settings_become_fields():
    stage = Statistics.of(Config(quality=Quality(c4=C4(min_words_per_line=5, filter_policy=False, enabled=False))))
    assert (stage.min_words_per_line, stage.filter_policy, stage.cut_lines) == (5, False, False)
    assert CUT_LINES not in counted(["a"], stage)[0] and stage.cuts(Config()) == []
    assert [cut.column for cut in Statistics().cuts(Config())] == [CUT_LINES]
