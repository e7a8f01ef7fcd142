"""Charsets: text in many of them comes back; bytes that are no text are told."""

import pytest

from gyral.curate.text.charset import charset_of, decode, is_binary, is_utf8, python_name

RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5
JAPANESE = "いろはにほへと ちりぬるを わかよたれそ つねならむ 日本語の文章です。" * 5
FRENCH = "Portez ce vieux whisky au juge blond qui fume, déjà vu à l'été où nous étions. " * 5
CHINESE = "我能吞下玻璃而不伤身体。今天天气很好，我们一起去公园散步吧。" * 5


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        (RUSSIAN, "utf-8"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "iso2022_jp"),
        (FRENCH, "cp1252"),
        (CHINESE, "gb18030"),
        (CHINESE, "gbk"),
        (FRENCH, "utf-16"),
        (FRENCH, "utf-16-le"),
        (FRENCH, "utf-16-be"),
        (RUSSIAN, "utf-8-sig"),
    ],
)
def test_text_comes_back_without_a_claim(text, charset):
    assert decode(text.encode(charset), claimed=False) == text


def test_the_claim_of_a_page_counts_where_bytes_say_nothing():
    page = "<meta charset=iso-8859-2><p>Žluťoučký kůň</p>"
    assert decode(page.encode("iso-8859-2")) == page
    page = "<meta http-equiv='Content-Type' content='text/html; charset=windows-1257'><p>Labā diena, šeit</p>"
    assert decode(page.encode("cp1257")) == page


def test_bytes_win_over_a_claim_that_lies():
    page = "<meta charset=iso-8859-1><p>Žluťoučký kůň</p>"
    assert decode(page.encode()) == page
    page = f"<meta charset=utf-8><p>{RUSSIAN}</p>"
    assert decode(page.encode("cp1251")) == page
    page = f"<meta charset=utf-16><p>{FRENCH}</p>"
    assert decode(page.encode("cp1252")) == page


def test_one_bad_byte_is_one_bad_character():
    page = f"<meta charset=utf-8><p>{RUSSIAN}</p>".encode() + b"\xff"
    assert decode(page) == f"<meta charset=utf-8><p>{RUSSIAN}</p>" + "�"
    assert charset_of(page)[0] == "utf-8"


def test_binary_is_told():
    assert is_binary(bytes(range(256)) * 10)
    assert is_binary(b"\x7fELF\x02\x01\x01" + bytes(200))
    assert not is_binary(FRENCH.encode("utf-16"))
    assert not is_binary(FRENCH.encode("utf-16-be"))
    assert not is_binary(JAPANESE.encode("iso2022_jp"))
    assert not is_binary(FRENCH.encode() + b"\0")


def test_names():
    assert python_name("ISO-8859-1") == "cp1252"
    assert python_name("x-sjis") == "cp932"
    assert python_name("nonsense") is None
    assert is_utf8("é".encode()) and not is_utf8(b"\xe9")
