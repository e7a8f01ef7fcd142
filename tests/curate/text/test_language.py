"""Languages told from windows: article 1 of the Declaration of Human Rights, as the UN has it, and what columns mean."""

import pyarrow as pa
import pytest

from gyral.config import load
from gyral.curate.text.language import CHARS, Language, declared_language, identify

# Languages that eldc knows, languages of its scripts that it does not, and scripts that it does not
RIGHTS = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "mk": "Сите човечки суштества се раѓаат слободни и еднакви по достоинство и права. Тие се обдарени со разум и совест.",
    "id": "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama. Mereka dikaruniai akal.",
    "ne": "सबै व्यक्तिहरू जन्मजात स्वतन्त्र हुन् ती सबैको समान अधिकार र महत्व छ।",
    "kk": "Барлық адамдар тумысынан азат және қадір-қасиеті мен құқықтары тең болып дүниеге келеді.",
    "eo": "Ĉiuj homoj estas denaske liberaj kaj egalaj laŭ digno kaj rajtoj. Ili posedas racion kaj konsciencon.",
    "si": "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත. ගරුත්වයෙන් හා අයිතිවාසිකම්වලින් සමාන වෙති.",
}


@pytest.mark.parametrize("language", RIGHTS)
def test_short_and_long_texts(language):
    short, long = identify(RIGHTS[language]), identify("\n".join([RIGHTS[language]] * 40))
    assert (short.language, long.language) == (language, language)
    assert 0 <= long.margin <= long.score <= 1.001
    if language in ("mk", "id", "ne", "kk", "eo", "si"):  # eldc knows none of these
        assert long.by == "fasttext"
    if language in ("de", "fr", "ja"):
        assert long.by == "eldc"


@pytest.mark.parametrize("text", ["", "ok", "the cat", "12345 67890 12345 67890 12345", "— … —  ***  === ||| ### --- ~~~ +++"])
def test_what_cannot_be_told_is_undetermined(text):
    assert identify(text) == (None, None, None, None)


def test_a_mixed_text_is_what_most_of_it_is():
    german, english = RIGHTS["de"] + "\n", RIGHTS["en"] + "\n"
    # the begin and the end mislead; only more windows tell
    assert identify(german * 3 + english * 40 + german * 3).language == "en"
    assert identify(english * 3 + german * 40 + english * 3).language == "de"


def test_windows_are_cut_between_characters():
    text = "𝒳あ" + RIGHTS["ja"] * 60
    for shift in range(4):
        assert identify("a" * shift + text).language == "ja"
    # what eldc may read: all of a window, though it reads 1,000 bytes
    assert 4 * CHARS <= 1000


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ("pt_BR", "pt"),
        ("sr@latin", "sr"),
        ("en-US", "en"),
        ("C", "en"),
        ("deu", "de"),
        ("ger", "de"),
        ("nb", "no"),
        ("zh-Hant", "zh"),
        ("", None),
        (None, None),
        ("ast", "ast"),
    ],
)
def test_what_sources_declare(declared, code):
    assert declared_language(declared) == code


@pytest.fixture
def signals():
    texts = [RIGHTS["de"], RIGHTS["en"], RIGHTS["en"], "ok", None]
    batch = pa.record_batch({"declared": ["xx", "de_DE", "de", "C", "en", "en"], "text": ["skipped", *texts]})
    return Language()(batch.slice(1))


def test_the_stage_says_whether_the_source_was_right(signals):
    assert signals["language"].to_pylist() == ["de", "en", "en", None, None]
    assert signals["language_agrees"].to_pylist() == [True, False, True, None, None]
    assert signals["language_by"].to_pylist()[:3] == ["eldc", "eldc", "eldc"]
    assert signals.schema.field("language_score").type == pa.float32() == signals.schema.field("language_margin").type


def test_limits_keep_what_is_wanted(signals, tmp_path):
    columns = {name: signals[name] for name in signals.schema.names}
    (limit,) = Language().limits(load(tmp_path, ["language.keep=['de']"]))
    assert (limit.op, limit.threshold) == ("not in", ["de"])
    assert limit.value(columns).to_pylist() == ["de", "en", "en", "und", "und"]
    (limit,) = Language().limits(load(tmp_path, ["language.min_score=0.99"]))
    assert (limit.value(columns) < limit.threshold).tolist() == [True, True, True, False, False]
    assert Language().limits(load(tmp_path)) == []
