"""The numba kernel that finds addresses of mail, and keys that open a door, in the bytes of texts.

Eight bytes at a time are looked up in a table; only at an `@`, a dash, `_`, `A` or `J` a rule looks around, at most 64 bytes
back and, but for a block that holds a private key, 4 KB on, so time is linear in the length whatever the text is.

Bytes above 127 belong to no candidate and end every one: a mailbox with letters beyond ASCII is found from the first ASCII
letter on. Helpers take `low`, the end of what was found last: nothing before is looked at again. The tables are constants of
the compiled code, and numba's cache looks at one file only: all is in this one.
"""

from __future__ import annotations

import numpy as np

from gyral.curate.text.compile_kernel import DIGITS, LETTERS, Array, byte_table, kernel, packed, signed, skipper

EMAIL, SECRET = range(2)
_MAX_KEY = 16 << 10
"""Bytes of a private key block at most."""

TRIGGER = byte_table(b"@", b"-", b"_", b"A", b"J")
ALNUM = byte_table(LETTERS + DIGITS)
LETTER = byte_table(LETTERS)
LOCAL = byte_table(LETTERS + DIGITS + b"._%+-'~")
TOKEN = byte_table(LETTERS + DIGITS, b"_-")
NO_TLD = packed(
    "png jpg jpeg gif webp svg bmp ico css js jsx ts tsx json html htm xhtml php asp aspx jsp txt xml pdf zip gz tar exe dll "
    "log cfg conf yml yaml toml csv doc docx xls xlsx bak tmp out cpp hpp java class jar "
    "local localhost localdomain invalid example test internal lan"
)
_COUNTRIES = (
    "acadaeafagaialamaoaqarasatauawaxazbabbbdbebfbgbhbibjbmbnbobrbsbtbwbybzcacccdcfcgchcickclcmcncocrcucvcwcxcyczdedjdkdmdodz"
    "eceeegereseteufifjfkfmfofrgagbgdgegfggghgiglgmgngpgqgrgsgtgugwgyhkhmhnhrhthuidieiliminioiqirisitjejmjojpkekgkhkikmknkpkrkwkykz"
    "lalblclilklrlsltlulvlymamcmdmemgmhmkmlmmmnmompmqmrmsmtmumvmwmxmymznancnenfngninlnonpnrnunzompapepfpgphpkplpmpnprpsptpwpyqa"
    "rerorsrurwsasbscsdsesgshsiskslsmsnsosrssstsusvsxsysztctdtftgthtjtktltmtntotrtttvtwtzuaugukusuyuzvavcvevgvivnvuwfwsyeytzazmzw"
)
IS_COUNTRY = np.zeros((26, 26), np.bool_)
for _one, _two in zip(_COUNTRIES[::2].encode(), _COUNTRIES[1::2].encode(), strict=True):
    IS_COUNTRY[_one - 97, _two - 97] = True

_PREFIXES = (
    # prefix, bytes of the token after it, at least and at most, whether `_` and `-` may be in it
    *((f"gh{kind}_", 36, 255, 0) for kind in "pousr"),
    ("github_pat_", 50, 255, 1),
    ("sk_live_", 10, 247, 0),
    ("rk_live_", 10, 247, 0),
    ("npm_", 36, 36, 0),
    ("hf_", 30, 40, 0),
    *((f"xox{kind}-", 20, 255, 1) for kind in "baprs"),
    ("glpat-", 20, 64, 1),
    ("sk-", 40, 255, 1),
    ("pypi-", 50, 255, 1),
)
PREFIX = np.array([int.from_bytes(each[0].encode()[-8:], "big") for each in _PREFIXES], np.uint64)
PREFIX_MASK = np.array([(1 << 8 * min(len(each[0]), 8)) - 1 for each in _PREFIXES], np.uint64)
PREFIX_SIZES = np.array([(len(each[0]), ord(each[0][0]), *each[1:]) for each in _PREFIXES], np.int64)
BEGIN, END, KEY, RULE = (np.frombuffer(text, np.uint8) for text in (b"BEGIN ", b"-----END ", b"PRIVATE KEY", b"-----"))
EYJ, KIA, SIA, IZA = (np.frombuffer(text, np.uint8) for text in (b"eyJ", b"KIA", b"SIA", b"Iza"))


@kernel
def scan(data: Array, offsets: Array, rows: Array, kinds: Array, begins: Array, ends: Array) -> int:
    """Find everything in the texts `data[offsets[i]:offsets[i + 1]]`; returns how much was found.

    `rows`, `kinds`, `begins` and `ends` (from the begin of the text) are filled; an entry for each three bytes is enough.
    """
    count = 0
    for row in range(len(offsets) - 1):
        begin, end = signed(offsets[row]), signed(offsets[row + 1])
        low, place, no_key_to = begin, _skip(data, begin, end), begin
        while place < end:
            trigger = TRIGGER[data[place]]
            if trigger == 1:
                kind, first, last = _email(data, low, place, end)
            elif trigger == 2 and _is(data, place, end, RULE) and _is(data, place + 5, end, BEGIN):
                kind, first, last, no_key_to = _key(data, place, end, no_key_to)
            else:
                kind, first, last = _secret(data, low, place, end, trigger)
            after = place + 1
            if kind >= 0:
                rows[count], kinds[count], begins[count], ends[count] = row, kind, first - begin, last - begin
                count += 1
                low = after = last
            place = _skip(data, after, end)
    return count


_skip = skipper(TRIGGER)


@kernel
def _is(data: Array, place: int, end: int, text: Array) -> bool:
    if place + len(text) > end:
        return False
    for number in range(len(text)):  # noqa: SIM110 (numba has no all)
        if data[place + number] != text[number]:
            return False
    return True


@kernel
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@kernel
def _email(data: Array, low: int, place: int, end: int) -> tuple[int, int, int]:
    """RFC 5321, section 4.1.2, without quotes: up to 64 bytes, `@`, labels, and a top-level domain that can be one."""
    first = place
    while first > low and place - first <= 64 and LOCAL[data[first - 1]]:
        first -= 1
    if place - first > 64:
        return -1, 0, 0
    for at in range(first, place - 1):
        if data[at] == 46 and data[at + 1] == 46:
            first = at + 2
    while first < place and not ALNUM[data[first]] and data[first] != 95:
        first += 1
    if first >= place or data[place - 1] == 46:
        return -1, 0, 0
    at, label, last, top = place + 1, place + 1, 0, 0
    while at < end and at - place <= 254:
        if data[at] == 46:
            if at == label or data[at - 1] == 45:
                break
            label = at + 1
        elif not (ALNUM[data[at]] or (data[at] == 45 and at > label)):
            break
        at += 1
        last, top = at, label
    while last > top and (data[last - 1] == 45 or data[last - 1] == 46):
        last -= 1
    if last == top:  # a full stop after it
        last, top = top - 1, top - 1
        while top > place + 1 and data[top - 1] != 46:
            top -= 1
    size = last - top
    if top <= place + 1 or size < 2 or last - place > 254 or not _is_top(data, top, last):
        return -1, 0, 0
    return EMAIL, first, last


@kernel
def _is_top(data: Array, top: int, last: int) -> bool:
    """Two letters of a country; or 3 to 24 letters, no ending of a file and no name that is only local; or Punycode."""
    if last - top > 4 and data[top] | 32 == 120 and data[top + 1] | 32 == 110 and data[top + 2] == 45 and data[top + 3] == 45:
        return True
    packed = np.uint64(0)
    for at in range(top, last):
        if not LETTER[data[at]]:
            return False
        packed = packed << np.uint64(8) | np.uint64(data[at] | 32)
    if last - top == 2:
        return bool(IS_COUNTRY[(data[top] | 32) - 97, (data[top + 1] | 32) - 97])
    for word in NO_TLD:
        if word == packed:
            return False
    return last - top <= 24


@kernel
def _secret(data: Array, low: int, place: int, end: int, trigger: int) -> tuple[int, int, int]:
    """Keys of services by their fixed beginning and length (as the services document them), and JSON web tokens."""
    if trigger == 4:
        if place > low and TOKEN[data[place - 1]]:
            return -1, 0, 0
        if _is(data, place + 1, end, KIA) or _is(data, place + 1, end, SIA):
            last = _token(data, place + 4, end, False)
            return (SECRET, place, last) if last - place == 20 and _upper(data, place, last) else (-1, 0, 0)
        last = _token(data, place + 4, end, True) if _is(data, place + 1, end, IZA) else 0
        return (SECRET, place, last) if last - place == 39 else (-1, 0, 0)
    if trigger == 5:
        first = place - 2
        if first < low or not _is(data, first, end, EYJ) or (first > low and TOKEN[data[first - 1]]):
            return -1, 0, 0
        middle = _token(data, place, end, True)
        if middle - place < 10 or middle >= end or data[middle] != 46 or not _is(data, middle + 1, end, EYJ):
            return -1, 0, 0
        last = _token(data, middle + 1, end, True)
        if last < end and data[last] == 46:
            last = _token(data, last + 1, end, True)
        return SECRET, first, last
    packed, shift = np.uint64(0), np.uint64(0)
    for at in range(place, max(place - 8, low - 1), -1):
        packed |= np.uint64(data[at]) << shift
        shift += np.uint64(8)
    for number in range(len(PREFIX)):
        if packed & PREFIX_MASK[number] != PREFIX[number]:
            continue
        size, initial, least, most, dashes = PREFIX_SIZES[number]
        first = place + 1 - size
        if first < low or data[first] != initial or (first > low and TOKEN[data[first - 1]]):
            continue
        last = _token(data, place + 1, end, dashes == 1)
        if not least <= last - place - 1 <= most:
            continue
        for at in range(place + 1, last):  # a name of many words has no digit
            if _is_digit(data[at]) or not dashes:
                return SECRET, first, last
    return -1, 0, 0


@kernel
def _token(data: Array, place: int, end: int, dashes: bool) -> int:
    """Where letters and digits (and `_` and `-`) end, at most 4 KB on."""
    at = place
    while at < min(end, place + 4096) and (TOKEN[data[at]] == 1 or (dashes and TOKEN[data[at]] == 2)):
        at += 1
    return at


@kernel
def _upper(data: Array, place: int, last: int) -> bool:
    for at in range(place, last):  # noqa: SIM110 (numba has no all)
        if data[at] >= 97:
            return False
    return True


@kernel
def _key(data: Array, place: int, end: int, no_key_to: int) -> tuple[int, int, int, int]:
    """A block from `-----BEGIN … PRIVATE KEY-----` to its end (RFC 7468); how far it is known that none ends comes last."""
    at = place + 11
    while at < min(end, place + 50) and not _is(data, at, end, KEY):
        at += 1
    if not _is(data, at, end, KEY):
        return -1, 0, 0, no_key_to
    stop = min(end, place + _MAX_KEY)
    for last in range(max(at, no_key_to), stop):
        if data[last] == 45 and _is(data, last, end, END):
            last += 9
            while last < min(end, place + _MAX_KEY) and data[last] != 45:
                last += 1
            return SECRET, place, min(last + 5, end), no_key_to
    return -1, 0, 0, max(stop - 9, no_key_to)
