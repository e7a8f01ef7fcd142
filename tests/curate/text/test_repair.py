"""Repair: text read in a wrong charset comes back, clean text in 25 scripts stays, and the kernel misses nothing."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate.stage import DOCUMENT
from gyral.curate.text import repair_kernel
from gyral.curate.text.repair import CONTROL, INVISIBLE, LINE_END, MOJIBAKE, NORMAL, Repair, faults, repair

CLEAN = {
    "en": "It’s a “quoted” text — with dashes, 20 °C, © 2026, naïve café, £5.",
    "de": "Größe, Übermut, Ähre, Straße, Ö, »Zitat«",
    "fr": "À l’été, déjà vu, Œuvre, où êtes-vous ? « Garçon », Noël, Ÿ",
    "pt": "Atenção: NÃO É MANHÃ. “AMANHÔ e “MAÇÔ, coração, três, Ã, Â, Ê",
    "vi": "Tôi nói tiếng Việt, Â Ă Đ Ê Ô Ơ Ư, những người bạn",
    "ro": "Înțelegere, ăâîșț, ÂÎ",
    "pl": "Zażółć gęślą jaźń",
    "cs": "Příliš žluťoučký kůň",
    "ru": "Россия, Самара, РФ, СССР… «Слово» С №1, Р. С.",
    "uk": "Її Єдність, ґанок, Ґ, «Слово»",
    "sr": "Љубав, њега, ћевап, Ђорђе",
    "el": "Ελληνικά, ΆΈΉ, άέήίόύώ",
    "ar": "السلام عليكم، لأنّ",
    "he": "שָׁלוֹם עליכם",
    "fa": "می‌خواهم بروم",
    "hi": "क्‍या आप हिन्दी बोलते हैं?",
    "ta": "தமிழ் மொழி",
    "th": "ภาษาไทยน้ำ",
    "ja": "日本語の「文章」です。ガギグ、パピプ",
    "ko": "한국어 문장입니다.",
    "zh": "中文，没有问题。",
    "emoji": "👨‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️",
    "is": "Það er ágætt, Ð Þ",
    "tr": "İstanbul’da ığüşöç",
}


def wrong(text: str, charset: str) -> str:
    return "".join(bytes([byte]).decode(charset, "ignore") or chr(byte) for byte in text.encode())


@pytest.mark.parametrize("language", CLEAN)
def test_clean_text_stays(language):
    text = unicodedata.normalize("NFC", CLEAN[language])
    assert repair(text) == (text, 0)


@pytest.mark.parametrize("language", [each for each in CLEAN if each != "emoji"])
def test_utf8_read_as_windows_1252_is_read_again(language):
    text = unicodedata.normalize("NFC", CLEAN[language])
    assert repair(wrong(text, "cp1252")) == (text, MOJIBAKE)
    assert faults(pa.array([wrong(text, "cp1252")]))[0] & repair_kernel.MOJIBAKE


@pytest.mark.parametrize("language", ["ru", "uk", "sr"])
def test_utf8_read_as_windows_1251_is_read_again(language):
    text = CLEAN[language].replace("ґанок, Ґ", "ганок")
    assert repair(wrong(text, "cp1251")) == (text, MOJIBAKE)
    assert faults(pa.array([wrong(text, "cp1251")]))[0] & repair_kernel.MOJIBAKE


def test_read_wrong_twice():
    assert repair(wrong(wrong(CLEAN["de"], "cp1252"), "cp1252"))[0] == CLEAN["de"]


def test_one_pair_is_enough_only_where_nobody_writes_it():
    assert repair("CafÃ© in Paris")[0] == "Café in Paris"
    assert repair("Itâ€™s") == ("It’s", MOJIBAKE)
    for text in ("“AMANHÔ", "Â©", "À bientÃ´t, déjà, été, où"):
        assert repair(text) == (text, 0)


def test_a_quotation_of_it_stays():
    text = CLEAN["fr"] + " On lit parfois « CafÃ© » au lieu de « Café » : été, déjà, où, à, ça, là."
    assert repair(text) == (text, 0)


def test_what_goes():
    assert repair("a\x00b\x07c\x7f\x9d\ufffe") == ("abc", CONTROL)
    assert repair("\ufeffa\u200bb\u00adc\u2060") == ("abc", INVISIBLE)
    assert repair("a\r\nb\rc\u2028d\u2029e\x85f\tg\n") == ("a\nb\nc\nd\ne\nf\tg\n", LINE_END)
    assert repair("e\u0301 \u212b \u1112\u1161\u11ab") == ("é Å 한", NORMAL)
    assert repair("a\r\n\x00e\u0301") == ("a\né", LINE_END | CONTROL | NORMAL)


def test_the_stage():
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(["a", "b", None, "e\u0301", "Ã¼ber Ã¼ber Ã¼ber"], field.type)
            if field.name == "text"
            else pa.array([0] * 5, field.type)
            if field.name == "offset"
            else pa.array([""] * 5, field.type)
            for field in DOCUMENT
        ],
        schema=DOCUMENT,
    )
    out = Repair()(batch)
    assert out["text"].to_pylist() == ["a", "b", None, "é", "über über über"]
    assert out["repaired"].to_pylist() == [0, 0, None, NORMAL, MOJIBAKE]
    assert out["num_bytes"].to_pylist() == [1, 1, None, 2, 17]
    assert Repair()(batch.slice(3, 2))["text"].to_pylist() == ["é", "über über über"]
    clean = batch.slice(0, 2)
    assert Repair()(clean)["text"].equals(clean["text"])


CHARACTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from(list("ÃÂâ€™©РСЃЂ\r\n\x00\u0301\u0323\u200b\ufeffe한\u11a8\u1161 ")),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text(CHARACTERS, max_size=40), max_size=5))
def test_the_kernel_misses_nothing(texts):
    found = faults(pa.array(texts, pa.string()))
    for text, bits in zip(texts, found, strict=True):
        changed = repair(text)[1]
        for was, told in ((CONTROL, 1), (INVISIBLE, 2), (LINE_END, 4), (NORMAL, 8), (MOJIBAKE, 16)):
            assert not changed & was or bits & told or (changed & MOJIBAKE and bits & 16), (text, changed, bits)


@settings(max_examples=200, deadline=None)
@given(st.text(CHARACTERS, max_size=60))
def test_repaired_text_is_composed_and_has_no_controls(text):
    new, _ = repair(text)
    assert unicodedata.is_normalized("NFC", new)
    assert not any(character in new for character in "\r\x00\x7f\u200b\ufeff\u00ad\u2028")
    new.encode()


def test_combining_classes_are_pythons():
    marks, classes = repair_kernel.tables()
    draw = np.random.default_rng(1).integers(0, 0x110000, 20_000)
    for code in draw.tolist():
        if not 0xD800 <= code < 0xE000:
            assert classes[code] == unicodedata.combining(chr(code))
            if not unicodedata.is_normalized("NFC", chr(code)):
                assert marks[code] & repair_kernel.NORMAL
