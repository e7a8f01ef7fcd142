"""What a shingle is: how text is folded, which scripts are cut into characters, and how many make one.

Folded away: case, accents of Latin, Greek and Cyrillic (so composed and decomposed forms are one), punctuation, symbols and
white space, which all separate; what is invisible and the accents themselves are passed over. Marks of other scripts stay, they
are vowels there. A code point this Unicode version does not know is a letter, so a newer one changes only new punctuation.

Five words are the field's measure (datatrove, FineWeb). Elsewhere the number of characters is the one by which two translated
pages are as alike as their English originals (`benchmarks/curate/near_chars.py`): 6 in Chinese, 10 in Japanese, 12 to 14 in
Khmer. So a Han character counts 1/6 and one of another script without spaces 1/12; the mean Jaccard is then off by .01 at most,
where five characters of any script make Khmer too alike by .10 and Japanese by .07.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from gyral.curate.stage import utf8

TOKENIZER = 1
"""Raised whenever a text would get other shingles."""
HAN = ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
"""Blocks of Han: radicals, marks and numerals, ideographs; those above U+20000 are known to the kernel."""
SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x3031, 0x3035),  # kana repeat marks
    (0x3040, 0x30FF),  # kana
    (0x3100, 0x312F),  # Bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),  # kana
    (0xA000, 0xA4CF),  # Yi
    (0xA9E0, 0xA9FF),  # Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xFF66, 0xFF9F),  # half-width kana
    (0x1AFF0, 0x1B16F),  # kana
)
"""Blocks of the other scripts that put no spaces between words."""


class Shingles(NamedTuple):
    """Settings of a text's shingles.

    Attributes
    ----------
    words : of a shingle, 1 to 63.
    chars : Han characters of a shingle, 1 to 31; twice as many of another script without spaces.
    compatible : empty, or `datatrove`: its normalisation and its hash, so that rates can be compared.
    """

    words: int = 5
    chars: int = 6
    compatible: str = ""


@lru_cache(1)
def fold_table() -> np.ndarray:
    """uint32 [0x20000] by code point: what it folds to, and its kind above bit 24; 40 ms, once a process."""
    table = np.zeros(0x20000, np.uint32)
    kinds = {code: 2 for first, last in HAN for code in range(first, last + 1)}
    kinds |= {code: 4 for first, last in SPACELESS for code in range(first, last + 1)}
    for code in range(len(table)):
        char = chr(code)
        category = unicodedata.category(char)
        if 0x0300 <= code <= 0x036F or 0xFE00 <= code <= 0xFE0F or category == "Cf":
            table[code] = 3 << 24
        elif category[0] in "LMN" or category in ("Cn", "Co", "Cs"):
            table[code] = kinds.get(code, 1) << 24 | ord(_fold(char))
    return table


def _fold(char: str) -> str:
    lower = char.lower().replace("ς", "σ")
    bare = "".join(part for part in unicodedata.normalize("NFD", lower) if not "\u0300" <= part <= "\u036f")
    return next((each for each in (bare, lower) if len(each) == 1), char)


@lru_cache(1)
def powers() -> np.ndarray:
    """Powers of the rolling hash's base, uint64 [RING]."""
    from gyral.curate.near.shingle_kernel import BASE, RING

    return np.array([pow(int(BASE), number, 1 << 64) for number in range(RING)], np.uint64)


def shingle_sets(texts: pa.StringArray, how: Shingles) -> tuple[np.ndarray, np.ndarray]:
    """Each text's set of shingles.

    Returns
    -------
    hashes, ends : uint64, ascending within a text, one text after the other; int64 [n], where each ends.
    """
    from gyral.curate.near import compatible_kernel, shingle_kernel

    if how.compatible:
        texts = simplify(texts)
    data, offsets = utf8(texts)
    hashes = np.empty(int(offsets[-1] - offsets[0]) // 2 + 2 * len(texts), np.uint64)
    ends = np.zeros(len(texts), np.int64)
    if how.compatible:
        compatible_kernel.sets(data, offsets, how.words, hashes, ends)
    else:
        words, chars = np.uint64(how.words), np.uint64(how.chars)
        shingle_kernel.sets(data, offsets, fold_table(), powers(), words, chars, hashes, ends)
    return hashes[: int(ends[-1]) if len(ends) else 0], ends


PUNCTUATION = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»" + "".join(
    map(chr, [*range(9), *range(11, 32), *range(127, 160)])
)
"""What datatrove makes spaces of (its `utils/text.py`)."""
_SPACES = str.maketrans(PUNCTUATION, " " * len(PUNCTUATION))
_NUMBER, _WHITE = re.compile(r"\d+(?:[.,،٫⎖⎗⎘]\d+)?"), re.compile(r"\s+")


def simplify(texts: pa.StringArray) -> pa.StringArray:
    """Texts as datatrove's MinHash normalises them; words are then what white space separates.

    Its word tokenizer (spaCy) is not here: it parts `cannot` and `0km` in two, so a few words differ.
    """
    return pa.array(list(_simplified(texts)), pa.string())


def _simplified(texts: pa.StringArray) -> Iterator[str]:
    for text in texts.to_pylist():
        plain = _NUMBER.sub("0", (text or "").lower()).translate(_SPACES)
        plain = _WHITE.sub(" ", plain.strip())
        if not plain.isascii():
            plain = "".join(char for char in unicodedata.normalize("NFD", plain) if unicodedata.category(char) != "Mn")
        yield plain.strip()
