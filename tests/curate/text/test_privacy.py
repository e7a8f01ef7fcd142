"""Places of what is private: hard cases by hand, numbers made by their own standards, and a plain regex as oracle of mail."""

import ipaddress
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config import load
from gyral.curate.stage import CUTS
from gyral.curate.text.privacy import KINDS, Privacy, find


def found(text: str) -> list[tuple[str, str]]:
    data = text.encode()
    # bytes around it that belong to other texts, and would change what is found if they were looked at
    whole = np.frombuffer(b"9a." + data + b"0.x@y.de", np.uint8)
    rows, kinds, begins, ends = find(whole, np.array([3, 3 + len(data)], np.int32))
    assert set(rows) <= {0}
    return [(KINDS[kind], data[begin:end].decode()) for kind, begin, end in zip(kinds, begins, ends, strict=True)]


def only(kind: str, text: str) -> list[str]:
    return [value for each, value in found(text) if each == kind]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to foo.bar+x@mail.example.co.uk.", ["foo.bar+x@mail.example.co.uk"]),
        ("<a@b.de>, c_d@e-f.org; 'g@h.info'", ["a@b.de", "c_d@e-f.org", "g@h.info"]),
        ("mailto:o'hara@x.museum?subject=hi", ["o'hara@x.museum"]),
        ("1234567890@qq.com", ["1234567890@qq.com"]),
        ("请写信到foo@bar.com谢谢", ["foo@bar.com"]),
        ("x@xn--80ak6aa92e.xn--p1ai", ["x@xn--80ak6aa92e.xn--p1ai"]),
        ("user@host and me@localhost, root@machine.local", []),
        ("logo@2x.png npm i left-pad@1.3.0 a@b.c @home a@.de a@-b.de", []),
        ("foo at bar dot com, foo [at] bar.com", []),
        ("a..b@c.de", ["b@c.de"]),
        ("x" * 70 + "@a.de", []),
        ("a@" + "b" * 300 + ".de", []),
        ("@@@@@a@b@c.de@@", ["b@c.de"]),
    ],
)
def test_email(text, expected):
    assert only("email", text) == expected


@pytest.mark.parametrize(
    ("text", "public", "private"),
    [
        ("from 85.214.132.117 to 192.168.1.1", ["85.214.132.117"], ["192.168.1.1"]),
        ("http://9.9.9.9/ 8.8.8.8:53 1.2.3.4", ["9.9.9.9", "8.8.8.8"], []),
        ("version 10.20.30.40, Release: 85.214.13.2, v85.214.13.2 libc-85.214.13.2 85.214.13.2-1 85.214.13.2.5", [], []),
        ("300.11.22.33 01.22.33.44 85.214.13 85.214.13.2x", [], []),
        ("10.0.0.1-10.0.0.9", [], ["10.0.0.1", "10.0.0.9"]),
        ("85.214.132.117.", ["85.214.132.117"], []),
        ("[::ffff:85.214.132.117]", ["85.214.132.117"], []),
        (
            "[2a00:1450:4001:82b::200e]:443 2001:4860:4860:0:0:0:0:8888",
            ["2a00:1450:4001:82b::200e", "2001:4860:4860:0:0:0:0:8888"],
            [],
        ),
        ("fe80::1 fd00::2 ::1 2001:db8::1:", [], ["fe80::1", "fd00::2", "::1", "2001:db8::1"]),
        ("std::dead 12:30:45 aa:bb:cc:dd:ee:ff a::b::c :: x::1 2001:db8 1:2:3:4:5:6:7:8:9", [], []),
    ],
)
def test_addresses_of_machines(text, public, private):
    assert only("ip", text) == public
    assert only("private_ip", text) == private


@given(st.integers(0, 2**32 - 1))
def test_public_means_what_the_standard_library_says(value):
    address = ipaddress.IPv4Address(value)
    public, private = only("ip", f"// at //{address}/"), only("private_ip", f"// at //{address}/")
    assert (public, private) == (
        ([str(address)], []) if address.is_global and not address.is_multicast else ([], [str(address)])
    )


@given(st.integers(0x2000 << 112, (0x4000 << 112) - 1))
def test_addresses_of_version_6(value):
    text = str(ipaddress.IPv6Address(value))
    documented = ipaddress.IPv6Address(value) in ipaddress.ip_network("2001:db8::/32")
    assert found(f"at {text}, then") == [("private_ip" if documented else "ip", text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "+49 30 1234567, +1 (415) 555-2671 or +44 (0)20 7946 0958",
            ["+49 30 1234567", "+1 (415) 555-2671", "+44 (0)20 7946 0958"],
        ),
        (
            "(415) 555-2671 415-555-2671 1-415-555-2671 415.555.2671",
            ["(415) 555-2671", "415-555-2671", "1-415-555-2671", "415.555.2671"],
        ),
        ("Tel.: 030/1234567 Fax 0221 123 45 67", ["030/1234567", "0221 123 45 67"]),
        ("+491701234567", ["+491701234567"]),
        ("x+12345678 a+4930123456789 +10000000 ++4930123456789 +0123456789 C++20 2024", []),
        ("030/1234567 and 415 555 2671 and 411-555-2671 and 115-555-2671", []),
        ("415-555-26712 2415-555-2671 415-555-2671-22 1.415-555-2671", []),
        ("550e8400-e29b-41d4-a716-446655440000 2024-11-26 12:30:45", []),
    ],
)
def test_phone(text, expected):
    assert only("phone", text) == expected


def luhn(digits: str) -> bool:
    return sum(sum(divmod(int(d) * (1 + i % 2), 10)) for i, d in enumerate(reversed(digits))) % 10 == 0


@given(
    st.sampled_from(["4", "51", "2221", "2720", "6011", "3530", "34", "37", "36", "62"]), st.integers(0, 10**16), st.booleans()
)
def test_cards_by_the_sum_of_luhn(prefix, number, spaced):
    length = {"34": 15, "37": 15, "36": 14}.get(prefix, 16)
    body = (prefix + f"{number:016d}")[: length - 1]
    digit = next(d for d in "0123456789" if luhn(body + d))
    card, wrong = body + digit, body + str((int(digit) + 1) % 10)
    if spaced and length != 14:
        sizes = (4, 8, 12) if length == 16 else (4, 10)
        card, wrong = ("-".join(each[a:b] for a, b in zip((0, *sizes), (*sizes, None), strict=True)) for each in (card, wrong))
    assert only("card", f"paid by {card}, thanks") == [card]
    assert only("card", f"paid by {wrong}, thanks") == []


def test_numbers_that_pass_luhn_and_are_no_cards():
    assert luhn("79927398713") and luhn("490154203237518") and luhn("4111111111111111")
    assert (
        only("card", "order 79927398713, IMEI 490154203237518, order no: x, Order #4111111111111111, ISBN 4111111111111111")
        == []
    )
    assert (
        only("card", "4111 1111 1111 1111 2222 9111111111111111 x4111111111111111 4111111111111111x 41-11 1111 1111 1111 11")
        == []
    )
    assert only("card", "4111 1111 1111 1111 12/25") == ["4111 1111 1111 1111"]


# Examples of SWIFT's registry, one a country
IBANS = [
    "DE89 3704 0044 0532 0130 00",
    "GB29 NWBK 6016 1331 9268 19",
    "FR14 2004 1010 0505 0001 3M02 606",
    "NL91 ABNA 0417 1643 00",
    "ES91 2100 0418 4502 0005 1332",
    "IT60 X054 2811 1010 0000 0123 456",
    "CH93 0076 2011 6238 5295 7",
    "NO93 8601 1117 947",
    "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    "SA03 8000 0000 6080 1016 7519",
    "BR18 0036 0305 0000 1000 9795 493C 1",
    "PL61 1090 1014 0000 0712 1981 2874",
]


@pytest.mark.parametrize("iban", IBANS)
def test_iban(iban):
    tight = iban.replace(" ", "")
    assert found(f"to {iban}. Or {tight}, please") == [("iban", iban), ("iban", tight)]
    for place in range(2, len(tight)):
        other = "7" if tight[place] != "7" else "3"
        assert only("iban", f"to {tight[:place]}{other}{tight[place + 1 :]} please") == []
    assert only("iban", f"x{tight} {tight}9 {tight[:-1]} ZZ{tight[2:]} {tight.lower()}") == []


def test_numbers_of_the_social_security():
    assert only(
        "ssn", "123-45-6789 (000-12-3456, 666-12-3456, 901-12-3456, 123-00-6789, 123-45-0000) 123-45-67890 4-123-45-6789"
    ) == ["123-45-6789"]


KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIabc+/12==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2_" * 16,
        "sk-" + "a1B2" * 12,
        "sk_live_" + "a1B2" * 6,
        "xoxb-123456789012-abcdefGHIJ",
        "glpat-" + "aB3_-" * 4,
        "AIza" + "Sy1-_" * 7,
        "hf_" + "aB3x" * 9,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123-_x",
        KEY,
    ],
)
def test_secrets(secret):
    assert found(f'key = "{secret}"') == [("secret", secret)]
    assert only("secret", f"q{secret[1:]} {secret[:9]} my{secret}") in ([], [KEY])  # dashes need no gap before them


def test_what_looks_like_secrets_and_is_none():
    assert (
        found(
            "-----BEGIN CERTIFICATE-----\nMIIabc\n-----END CERTIFICATE----- AKIA "
            "sk-very-long-name-of-a-class-of-styles-in-a-sheet-of-them"
        )
        == []
    )
    assert found("-----BEGIN PRIVATE KEY-----" * 3) == []


# Mail as the benchmark of many a tool has it: as one regex, slow
MAIL = re.compile(
    r"(?<![A-Za-z0-9._%+'~-])[A-Za-z0-9_][A-Za-z0-9_%+'~-]*(?:\.[A-Za-z0-9_%+'~-]+)*@((?:[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*\.)+[A-Za-z]{2,24})(?![A-Za-z0-9@-]|\.[A-Za-z0-9])"
)
PIECES = st.sampled_from(
    ["a", "Bc", "9", ".", "@", "-", "_", " ", "de", "com", "\n", "é", "x1", "'", "10", ":", "::", "+49", "(", "/", "000"]
)


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=40).map("".join))
def test_mail_as_the_regex_finds_it_and_places_are_sound(text):
    values = only("email", text)
    tops = {"de", "com", "dede", "decom", "comcom", "comde"}
    expected = [each.group(0) for each in MAIL.finditer(text) if each.group(1).rpartition(".")[2].lower() in tops]
    plain = [each for each in expected if ".." not in each]
    assert [each for each in plain if each not in values] == []
    data = text.encode()
    _, _, begins, ends = find(np.frombuffer(data or b"\0", np.uint8), np.array([0, len(data)], np.int32))
    assert (begins < ends).all() and (begins[1:] >= ends[:-1]).all() and (ends <= len(data)).all()
    assert all(data[begin:end].isascii() for begin, end in zip(begins, ends, strict=True))


def test_the_stage_adds_places_of_each_text():
    texts = pa.array(["skipped@a.de", "Ünïcode a@b.de, 85.214.132.117 c@d.de", None, "", "none", "+49 30 1234567"])
    batch = pa.record_batch({"text": texts}).slice(1)
    out = Privacy()(batch)
    assert out.schema.names == ["text", *(f"{what}_{kind}" for kind in KINDS for what in ("cut", "num"))]
    assert out.schema.field("cut_email").type == CUTS
    assert out["num_email"].to_pylist() == [2, 0, 0, 0, 0]
    assert out["cut_phone"].to_pylist() == [[], [], [], [], [0, 14]]
    (begin, end, *rest), data = out["cut_email"][0].as_py(), texts[1].as_py().encode()
    assert data[begin:end] == b"a@b.de" and len(rest) == 2


def test_settings_choose_what_is_replaced_and_dropped(tmp_path):
    config = load(tmp_path, ["privacy.redact=['email', 'private_ip']", "privacy.max_found=1"])
    assert [(cut.column, cut.replacement) for cut in Privacy().cuts(config)] == [
        ("cut_email", "<EMAIL>"),
        ("cut_private_ip", "<IP>"),
    ]
    (limit,) = Privacy().limits(config)
    out = Privacy()(pa.record_batch({"text": ["a@b.de 10.0.0.22", "a@b.de +49 30 1234567"]}))
    assert limit.value({name: out[name] for name in limit.columns}).tolist() == [2, 1]
    assert Privacy().limits(load(tmp_path)) == ()
