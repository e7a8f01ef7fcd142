"""What each character is to the rules: one table of bits by code point, made of Unicode's own categories and a few lists.

The lists are those of the tokenizer and the filters that the rules are measured against (spaCy's English punctuation,
datatrove's `PUNCTUATION_SET` and `TERMINAL_PUNCTUATION`), so that counts agree; the rest are Unicode's categories.
A character beyond the second plane is a Han character: nothing else that is written stands there.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np

SPACE, ALPHA, LOWER, UPPER, DIGIT = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
AFFIX = 1 << 5
"""A word of its own at the begin or end of a chunk."""
QUOTE, POINT_AFTER = 1 << 6, 1 << 7
"""Quotation marks; what a full stop is cut off after."""
ICON, CURRENCY, HYPHEN = 1 << 8, 1 << 9, 1 << 10
SYMBOL = 1 << 11
"""A word of these alone is no word to Gopher's quality rules."""
TERMINAL, PUNCTUATION = 1 << 12, 1 << 13
"""Ends a sentence; any of Unicode's categories P."""
UNIT, WIDE, UNMARKED = 1 << 14, 1 << 15, 1 << 16
"""Of a script without spaces, where a character is the unit of counting; of two columns; of a script that marks no ends."""
MARK = 1 << 17
"""Stands with the character before it."""
ODD = 1 << 18
"""Anything but letters, digits and marks: the chunk must be looked at."""
BREAK = 1 << 19
"""Ends a line to Python's `splitlines`."""
CURLY, SQUARE = 1 << 21, 1 << 22
PREFIX_ONLY = 1 << 23

TABLE_SIZE = 1 << 17

_PUNCT = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"
_CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
_PREFIXES = "§%="
_SYMBOLS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
_TERMINALS = (
    "!.?։؞؟۔܀܁܂߹।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡"
    "\u061d\u0837\u0839\u083d\u083e\u1b7d\u1b7e\u2e53\u2e54"
)
_TERMINAL_RANGES = (
    (0x10A56, 0x10A57), (0x10F55, 0x10F59), (0x10F86, 0x10F89), (0x11047, 0x11048), (0x110BE, 0x110C1), (0x11141, 0x11143),
    (0x111C5, 0x111C6), (0x111CD, 0x111CD), (0x111DE, 0x111DF), (0x11238, 0x11239), (0x1123B, 0x1123C), (0x112A9, 0x112A9),
    (0x1144B, 0x1144C), (0x115C2, 0x115C3), (0x115C9, 0x115D7), (0x11641, 0x11642), (0x1173C, 0x1173E), (0x11944, 0x11944),
    (0x11946, 0x11946), (0x11A42, 0x11A43), (0x11A9B, 0x11A9C), (0x11C41, 0x11C42), (0x11EF7, 0x11EF8), (0x11F43, 0x11F44),
    (0x16A6E, 0x16A6F), (0x16AF5, 0x16AF5), (0x16B37, 0x16B38), (0x16B44, 0x16B44), (0x16E98, 0x16E98), (0x1BC9F, 0x1BC9F),
    (0x1DA88, 0x1DA88),
)  # fmt: skip
_CONTROLS = ((0, 9), (11, 13), (13, 32), (127, 160))
_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_UNSPACED = {
    "thai and lao": (0x0E00, 0x0EFF), "tibetan": (0x0F00, 0x0FFF), "burmese": (0x1000, 0x109F), "khmer": (0x1780, 0x17FF),
    "kana": (0x3040, 0x30FF), "kana more": (0x31F0, 0x31FF), "han a": (0x3400, 0x4DBF), "han": (0x4E00, 0x9FFF),
    "burmese a": (0xAA60, 0xAA7F), "han compatible": (0xF900, 0xFAFF), "kana half": (0xFF66, 0xFF9F),
    "iteration": (0x3005, 0x3007),
}  # fmt: skip
_UNMARKED = ("thai and lao", "tibetan")


@lru_cache(1)
def table() -> np.ndarray:
    """Bits of each code point below `TABLE_SIZE`, uint32."""
    bits = np.zeros(TABLE_SIZE, np.uint32)
    for code in range(TABLE_SIZE):
        bits[code] = _bits_of_category(chr(code))
    for texts, bit in (
        (_PUNCT + _QUOTES + "—–", AFFIX),
        (_PUNCT + _QUOTES, POINT_AFTER),
        ("%²-+", POINT_AFTER),
        (_QUOTES, QUOTE),
        (_PREFIXES, PREFIX_ONLY),
        (_CURRENCY, CURRENCY),
        ("-–—~", HYPHEN),
        (_SYMBOLS + _TERMINALS, SYMBOL),
        (_TERMINALS, TERMINAL),
        (_BREAKS, BREAK),
        ("{", CURLY),
        ("[", SQUARE),
    ):
        for text in texts:
            bits[ord(text)] |= bit
    for first, last in _TERMINAL_RANGES:
        bits[first : last + 1] |= TERMINAL | SYMBOL
    for first, after in _CONTROLS:
        bits[first:after] |= SYMBOL
    for name, (first, last) in _UNSPACED.items():
        letters = (bits[first : last + 1] & (ALPHA | DIGIT)) != 0
        wide = WIDE if name[:3] in ("han", "kan", "ite") else 0
        bits[first : last + 1][letters] |= UNIT | wide | (UNMARKED if name in _UNMARKED else 0)
    bits[0xAC00:0xD7A4] |= WIDE
    bits.flags.writeable = False
    return bits


def _bits_of_category(char: str) -> int:
    category = unicodedata.category(char)
    bits = SPACE if char.isspace() else 0
    if category[0] == "L":
        cased = LOWER if category == "Ll" else UPPER if category == "Lu" else LOWER | UPPER
        return bits | ALPHA | cased
    if category == "Nd":
        return bits | DIGIT
    if category[0] == "M":
        return bits | MARK
    if category == "So":
        bits |= ICON | AFFIX
    if category[0] == "P":
        bits |= PUNCTUATION
    return bits | ODD
