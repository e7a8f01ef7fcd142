"""The numba kernel that finds numbers of persons in the bytes of texts: addresses of machines, phones, cards, accounts.

Eight bytes at a time are looked up in a table; only at a digit or a colon a rule looks around, a few bytes back and at most
some dozen on, so time is linear in the length whatever the text is. Rules are exact: checksums, issuers, lengths by country,
ranges of addresses. Where a number alone does not tell, the word before it does: `version 10.2.3.4` is no address,
`tel. 030 1234567` is a phone number.

Bytes above 127 belong to no candidate and end every one. Helpers take `low`, the end of what was found last: nothing before is
looked at again. The tables are constants of the compiled code, and numba's cache looks at one file only: all is in this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gyral.curate.text.compile_kernel import DIGITS, LETTERS, Array, byte_table, kernel, packed, signed, skipper

IP, PRIVATE_IP, PHONE, CARD, IBAN, SSN = range(6)

TRIGGER = byte_table(DIGITS, b":")
ALNUM = byte_table(LETTERS + DIGITS)
LETTER = byte_table(LETTERS)
HEX = byte_table(DIGITS + b"abcdefABCDEF")
TOKEN = byte_table(LETTERS + DIGITS, b"_-")
GAP = byte_table(b" -./()")
GLUE = byte_table(LETTERS + DIGITS + b"_-./#+$@")
"""What right before a number says that it is part of something else."""
PAUSE = byte_table(b" :.=(#\t\"'")
VERSION = packed("version versions ver v release releases rev revision build firmware update section chapter clause table")
ORDER = packed("order orders invoice imei isbn ean ref reference ticket tracking serial id issn doi")
CALL = packed("tel tels telephone phone phones fax mobile mob cell call telefon telefono telefax handy whatsapp hotline ph")
_IBAN_SIZES = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 "
    "FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
    "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 "
    "RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
IBAN_SIZE = np.zeros((26, 26), np.uint8)
"""Length of an IBAN by its country: the registry of SWIFT."""
for _entry in _IBAN_SIZES.split():
    IBAN_SIZE[ord(_entry[0]) - 65, ord(_entry[1]) - 65] = int(_entry[2:])


@kernel
def scan(data: Array, offsets: Array, rows: Array, kinds: Array, begins: Array, ends: Array) -> int:
    """Find everything in the texts `data[offsets[i]:offsets[i + 1]]`; returns how much was found.

    `rows`, `kinds`, `begins` and `ends` (from the begin of the text) are filled; an entry for each three bytes is enough.
    """
    count = 0
    for row in range(len(offsets) - 1):
        begin, end = signed(offsets[row]), signed(offsets[row + 1])
        low, place = begin, _skip(data, begin, end)
        while place < end:
            if TRIGGER[data[place]] == 1:
                kind, first, last, after = _number(data, low, place, end)
            else:
                kind, first, last, after = _ipv6(data, low, place, end)
            if kind >= 0:
                rows[count], kinds[count], begins[count], ends[count] = row, kind, first - begin, last - begin
                count += 1
                low = after = last
            place = _skip(data, after, end)
    return count


_skip = skipper(TRIGGER)


@kernel
def _digit(byte: Any) -> bool:
    return bool(48 <= byte <= 57)


@kernel
def _says(data: Array, low: int, place: int, words: Array) -> bool:
    """Is the word before a place one of these? Up to four bytes of `:`, space and the like may be between them."""
    at = place
    while at > low and place - at < 4 and PAUSE[data[at - 1]]:
        at -= 1
    packed, shift = np.uint64(0), np.uint64(0)
    stop = at
    while at > low and LETTER[data[at - 1]]:
        if stop - at < 8:
            packed |= np.uint64(data[at - 1] | 32) << shift
            shift += np.uint64(8)
        elif stop - at > 12:
            return False
        at -= 1
    for word in words:  # noqa: SIM110 (numba has no any)
        if word == packed:
            return True
    return False


@kernel
def _number(data: Array, low: int, place: int, end: int) -> tuple[int, int, int, int]:
    """What a run of digits begins: an IBAN, an address, a number of a card, a phone or a person."""
    stop = place + 1
    while stop < end and _digit(data[stop]):
        stop += 1
    size = stop - place
    before = data[place - 1] if place > low else np.uint8(32)
    if size >= 2 and 65 <= before <= 90:
        last = _iban(data, low, place - 2, end)
        return (IBAN, place - 2, last, last) if last else (-1, 0, 0, stop)
    after = data[stop] if stop < end else np.uint8(32)
    if size <= 3 and after == 46:
        kind, last = _ipv4(data, low, place, end)
        if kind >= 0:
            return kind, place, last, last
    kind, first, last = _phone(data, low, place, stop, end)
    if kind < 0 and (size >= 13 or size == 4) and not GLUE[before]:
        last = _card(data, low, place, end)
        kind, first = (CARD, place) if last else (-1, 0)
    if kind < 0 and size == 3 and after == 45 and not GLUE[before]:
        last = _ssn(data, place, end)
        kind, first = (SSN, place) if last else (-1, 0)
    return kind, first, last, stop if kind < 0 else last


@kernel
def _octets(data: Array, place: int, end: int) -> tuple[int, int]:
    """Four numbers of 0 to 255 without leading zeros: their value and end; end 0: there are none."""
    value, at = 0, place
    for number in range(4):
        first, octet = at, 0
        while at < end and at - first < 4 and _digit(data[at]):
            octet = octet * 10 + data[at] - 48
            at += 1
        if at == first or octet > 255 or at - first > 3 or (data[first] == 48 and at - first > 1):
            return 0, 0
        value = value << 8 | octet
        if number < 3:
            if at >= end or data[at] != 46:
                return 0, 0
            at += 1
    return value, at


@kernel
def _ipv4(data: Array, low: int, place: int, end: int) -> tuple[int, int]:
    value, last = _octets(data, place, end)
    if last == 0:
        return -1, 0
    before = data[place - 1] if place > low else np.uint8(32)
    after = data[last] if last < end else np.uint8(32)
    then = data[last + 1] if last + 1 < end else np.uint8(32)
    in_url = before == 47 and place - 1 > low and data[place - 2] == 47
    in_range = before == 45 and place - 1 == low
    if GLUE[before] and not in_url and not in_range and before != 64:
        return -1, 0
    if ALNUM[after] or after == 95 or (after == 46 and ALNUM[then]):
        return -1, 0
    if after == 45 and ALNUM[then] and _octets(data, last + 1, end)[1] == 0:
        return -1, 0  # 1.2.3.4-5 is a version, 1.2.3.4-1.2.3.9 a range
    small = value & 0xFF < 10 and value >> 8 & 0xFF < 10 and value >> 16 & 0xFF < 10 and value >> 24 < 10
    if small and not in_url and not (after == 58 and _digit(then)):
        return -1, 0  # single digits number sections and versions more often than hosts
    if _says(data, low, place, VERSION):
        return -1, 0
    return (PRIVATE_IP if _is_private(value) else IP), last


@kernel
def _is_private(value: int) -> bool:
    """Not of the public internet: the registries of RFC 6890 and 5771."""
    a, ab, abc = value >> 24, value >> 16, value >> 8
    if a == 0 or a == 10 or a == 127 or a >= 224 or ab == 0xA9FE or ab >> 4 == 0xAC1 or ab == 0xC0A8:
        return True
    return (
        ab >> 6 == 0x6440 >> 6
        or ab >> 1 == 0xC612 >> 1
        or abc == 0xC00000
        or abc == 0xC00002
        or abc == 0xC63364
        or abc == 0xCB0071
    )


@kernel
def _ipv6(data: Array, low: int, place: int, end: int) -> tuple[int, int, int, int]:
    """RFC 4291, section 2.2: groups of up to four hexadecimal digits, eight of them or one `::`."""
    after = data[place + 1] if place + 1 < end else np.uint8(32)
    before = data[place - 1] if place > low else np.uint8(32)
    if not (after == 58 or (HEX[after] and HEX[before])):
        return -1, 0, 0, place + 1
    first, last = place, place + 1
    while first > low and place - first < 5 and HEX[data[first - 1]]:
        first -= 1
    while last < end and (HEX[data[last]] or data[last] == 58):
        last += 1
    until = last
    if until < end and data[until] == 46:  # the first number of an address of version 4 is not part of it
        while data[until - 1] != 58:
            until -= 1
    if data[last - 1] == 58 and data[last - 2] != 58:
        last -= 1
    before = data[first - 1] if first > low else np.uint8(32)
    after = data[until] if until < end else np.uint8(32)
    if (GLUE[before] and before != 47) or TOKEN[after] or last - first > 39 or last - first < 3:
        return -1, 0, 0, until
    groups, gaps, size, value, head, second, at = 0, 0, 0, 0, 0, 0, first
    while at <= last:
        if at < last and data[at] != 58:
            byte = data[at] | 32
            value, size = value << 4 | (byte - 48 if byte <= 57 else byte - 87), size + 1
        else:
            if size > 4:
                return -1, 0, 0, until
            if size:
                groups += 1
                head, second = (value, second) if groups == 1 else (head, value if groups == 2 else second)
            gaps += at + 1 < last and data[at] == 58 and data[at + 1] == 58
            value = size = 0
        at += 1
    if gaps > 1 or groups > 8 or (gaps == 0 and groups != 8) or groups == 0:
        return -1, 0, 0, until
    if 0x2000 <= head <= 0x3FFF and data[first] != 58:
        return (PRIVATE_IP if head == 0x2001 and second == 0xDB8 else IP), first, last, until
    own = data[first] == 58 and groups == 1 and head == 1  # ::1
    local = data[first] != 58 and (0xFC00 <= head <= 0xFDFF or 0xFE80 <= head <= 0xFEBF)
    return (PRIVATE_IP, first, last, until) if own or local else (-1, 0, 0, until)


@kernel
def _iban(data: Array, low: int, place: int, end: int) -> int:
    """ISO 13616: two letters, two check digits, as many characters as the country has, 1 modulo 97; 0: it is none."""
    if place < low or (place > low and ALNUM[data[place - 1]]) or not 65 <= data[place] <= 90:
        return 0
    size = IBAN_SIZE[data[place] - 65, data[place + 1] - 65]
    if size == 0:
        return 0
    at, count, rest, head = place, 0, 0, 0
    while count < size and at < end:
        byte = data[at]
        if byte == 32 and count and count % 4 == 0 and data[at - 1] != 32:
            at += 1
            continue
        if not (_digit(byte) or 65 <= byte <= 90) or (count in (2, 3) and not _digit(byte)):
            return 0
        value = byte - 48 if byte <= 57 else byte - 55
        if count < 4:  # goes to the end
            head = head * (10 if byte <= 57 else 100) + value
        else:
            rest = (rest * (10 if byte <= 57 else 100) + value) % 97
        count, at = count + 1, at + 1
    if count < size or (at < end and ALNUM[data[at]]):
        return 0
    return at if (rest * 1_000_000 + head) % 97 == 1 else 0


@kernel
def _card(data: Array, low: int, place: int, end: int) -> int:
    """ISO/IEC 7812: the issuer's prefix and length, digits as they are grouped on cards, and Luhn's sum; 0: it is none."""
    at, count, groups, separator, size, second, four = place, 0, 0, np.uint8(0), 0, 0, 0
    while at < end and count < 20:
        byte = data[at]
        if _digit(byte):
            four = four * 10 + byte - 48 if count < 4 else four
            count, at, size = count + 1, at + 1, size + 1
        elif (byte == 32 or byte == 45) and at + 1 < end and _digit(data[at + 1]):
            if (separator and byte != separator) or size < 4 or (groups == 0 and size != 4):
                break
            if groups == 3 or (groups == 2 and second == 6):  # complete; one more group of four is a table
                four_more = at + 4 < end and _digit(data[at + 2]) and _digit(data[at + 3]) and _digit(data[at + 4])
                if four_more and (at + 5 >= end or not _digit(data[at + 5])):
                    return 0
                break
            second = size if groups == 1 else second
            separator, groups, at, size = byte, groups + 1, at + 1, 0
        else:
            break
    after = data[at] if at < end else np.uint8(32)
    if not 13 <= count <= 19 or ALNUM[after] or after == 64 or after == 95 or (groups and second != 4 and second != 6):
        return 0
    one, two, three = four // 1000, four // 100, four // 10
    visa = one == 4 and (count == 13 or count == 16 or count == 19)
    master = count == 16 and (51 <= two <= 55 or 2221 <= four <= 2720)
    amex = count == 15 and (two == 34 or two == 37)
    diners = count == 14 and (300 <= three <= 305 or two == 36 or two == 38 or two == 39)
    longer = count >= 16 and (four == 6011 or 644 <= three <= 649 or two == 65 or two == 62 or 3528 <= four <= 3589)
    if not (visa or master or amex or diners or longer) or _says(data, low, place, ORDER):
        return 0
    total, number = 0, 0
    for back in range(at - 1, place - 1, -1):
        if _digit(data[back]):
            digit = signed(data[back]) - 48
            if number & 1:
                digit = digit * 2 - 9 if digit > 4 else digit * 2
            total, number = total + digit, number + 1
    return at if total % 10 == 0 else 0


@kernel
def _ssn(data: Array, place: int, end: int) -> int:
    """A number of the US social security as it is written, `ddd-dd-dddd`, of the ranges that are given out; 0: it is none."""
    if place + 11 > end or data[place + 6] != 45 or (place + 11 < end and (TOKEN[data[place + 11]])):
        return 0
    value = 0
    for number in (0, 1, 2, 4, 5, 7, 8, 9, 10):
        if not _digit(data[place + number]):
            return 0
        value = value * 10 + data[place + number] - 48
    area = value // 1_000_000
    return 0 if area == 0 or area == 666 or area >= 900 or value // 10_000 % 100 == 0 or value % 10_000 == 0 else place + 11


@kernel
def _phone(data: Array, low: int, place: int, stop: int, end: int) -> tuple[int, int, int]:
    """ITU-T E.164 with its `+`; the North American plan as it is written there; others only after a word like `tel.`."""
    before = data[place - 1] if place > low else np.uint8(32)
    if before == 43:
        glued = place - 1 > low and (TOKEN[data[place - 2]] or data[place - 2] == 43)
        count, groups, last = _digits(data, place, end, 11 if data[place] == 49 else 15)
        code = (data[place] - 48) * 10 + data[place + 1] - 48 if count > 1 and _digit(data[place + 1]) else 10
        known = data[place] != 48 and code != 28 and code != 83 and code != 89 and (count == 11 or data[place] != 49)
        return (PHONE, place - 1, last) if known and not glued and (10 if groups == 1 else 8) <= count <= 15 else (-1, 0, 0)
    size = stop - place
    if size == 3 and data[place] >= 50 and not (data[place + 1] == 49 and data[place + 2] == 49):
        bracket = before == 40 and stop < end and data[stop] == 41
        first = place - 1 if bracket else place
        apart = first > low and (TOKEN[data[first - 1]] or GLUE[data[first - 1]]) == 0
        one = first - 2 >= low and data[first - 2] == 49 and (data[first - 1] == 45 or data[first - 1] == 32)
        one = one and (first - 2 == low or GLUE[data[first - 3]] == 0)
        if first == low or apart or one:
            last = _north_american(data, stop, end, bracket)
            if last:
                return PHONE, first - 2 * one, last
    if (size >= 2 or before == 40) and _says(data, low, place - (before == 40), CALL) and not (ALNUM[before] or before == 45):
        count, groups, last = _digits(data, place, end, 15)
        if 7 <= count <= 15 and (groups > 1 or count >= 9):
            return PHONE, place - (before == 40), last
    return -1, 0, 0


@kernel
def _north_american(data: Array, at: int, end: int, bracket: bool) -> int:
    """After an area code: `) ddd-dddd`, `-ddd-dddd` or `.ddd.dddd`; the end of it, 0: it is none."""
    if bracket:
        at += 1 + (at + 1 < end and data[at + 1] == 32)
    elif at < end and (data[at] == 45 or data[at] == 46):
        at += 1
    else:
        return 0
    if at + 8 > end or data[at] < 50:
        return 0
    separator = data[at + 3]
    if not ((separator == 45 or separator == 46 or separator == 32) if bracket else separator == data[at - 1]):
        return 0
    for number in range(8):
        if number != 3 and not _digit(data[at + number]):
            return 0
    at += 8
    after, then = data[at] if at < end else np.uint8(32), data[at + 1] if at + 1 < end else np.uint8(32)
    return 0 if TOKEN[after] or after == 64 or (after == 46 and _digit(then)) else at


@kernel
def _digits(data: Array, place: int, end: int, most: int) -> tuple[int, int, int]:
    """Digits in groups with one or two of ` -./()` between: how many, groups, and the end of the last; none: glued to more."""
    at, count, groups, last = place, 0, 0, place
    while at < end and count <= most:
        if _digit(data[at]):
            groups += at == place or not _digit(data[at - 1])
            count, at = count + 1, at + 1
            last = at
            continue
        gap = 0
        while gap < 3 and at + gap < end and GAP[data[at + gap]]:
            gap += 1
        if gap == 0 or gap > 2 or at + gap >= end or not _digit(data[at + gap]) or count == most:
            break
        if count > 6 and data[at + gap - 1] == 40:  # the next one begins
            break
        at += gap
    after = data[last] if last < end else np.uint8(32)
    return (0, 0, place) if TOKEN[after] == 1 or after == 95 or after == 64 else (count, groups, last)
