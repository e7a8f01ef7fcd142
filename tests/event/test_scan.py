"""The kernel against msgspec alone: whatever the bytes, the same rows, the same reasons, the same refusals."""

import json
import os
import random
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.event import scan

GOOD = {"event_id": "a", "event_time": 1_700_000_000_000, "kind": "click", "subject": "u"}
FULL = {
    **GOOD,
    **{name: name[0] for name in ("object", "session", "device_class", "app", "language", "country", "schema_id", "consent")},
    "props": {"n": [1, -2.5e-3, True, None], "t": 'é"\\\n\U0001f600', "o": {"": {}}},
}


def dumps(*events, **options):
    return json.dumps(events, **options).encode()


@pytest.fixture(scope="module")
def loaded():
    loaded = scan.Loaded()
    loaded.load()
    return loaded


def both(loaded, bodies, max_events=1_000):
    """What is read with the kernel and without, and how many bodies and events the kernel left to msgspec."""
    told = []
    for each in (loaded, scan.Loaded()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scan, "LOADED", each)
            patch.setattr(scan, "LOAD_AFTER_BYTES", 1 << 60)
            events, parts = scan.read(bodies, 7, max_events)
        events.validate(full=True)
        told.append((events.to_pydict(), [part if isinstance(part, scan.Part) else (type(part), str(part)) for part in parts]))
    return told


def same(loaded, bodies, **options):
    one, two = both(loaded, bodies, **options)
    assert one == two
    return one


def num_left(loaded, *bodies):
    """Bodies, and events of the other bodies, that the kernel leaves to msgspec."""
    scanned = scan._scan(list(bodies), 1_000, loaded.get())
    return int((scanned.counts < 0).sum()), int((scanned.is_odd).sum())


@pytest.mark.parametrize(
    "body",
    [
        dumps(GOOD, FULL),
        dumps(GOOD, FULL, indent=2),
        dumps(FULL, ensure_ascii=False),
        b"[]",
        b"\t[ \r\n]\n",
        dumps(GOOD)[1:-1] + b"\r\n \n\t" + dumps(FULL)[1:-1] + b"\n",
        dumps({**GOOD, "subject": "日本語 🙂"}, {**GOOD, "object": "", "app": None, "props": None}, ensure_ascii=False),
        dumps(*[{**GOOD, "event_time": when} for when in ("2024-02-29T23:59:59.5Z", "1969-12-31T23:59:59.000001-09:30", 0, 1)]),
        dumps({**GOOD, "subject": "x" * 1024}, {**GOOD, "props": {"deep": json.loads("[" * 50 + "]" * 50)}}),
    ],
)
def test_the_common_shape_is_read_by_the_kernel_alone(loaded, body):
    (rows, (part,)) = same(loaded, [body])
    assert num_left(loaded, body.strip()) == (0, 0) and part == scan.Part(slice(0, len(rows["kind"])), [])


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b'{"event_id":"a\\n","event_time":1,"kind":"k","subject":"s"}', ""),
        (b'{"event\\u005fid":"a","event_time":1,"kind":"k","subject":"s"}', ""),
        (b'{"event_id":"a","event_id":"b","event_time":1,"kind":"k","subject":"s"}', ""),
        (b'{"event_id":"a","event_time":1.5e3,"kind":"k","subject":"s"}', ""),
        (b'{"event_id":"a","event_time":-5,"kind":"k","subject":"s"}', ""),
        (b'{"event_id":"a","event_time":99999999999999,"kind":"k","subject":"s"}', ""),
        (b'{"event_id":"a","event_time":"2024-01-01 00:00:00.1234567z","kind":"k","subject":"s"}', ""),
        (b'{"event_id":"a","event_time":253402300798999,"kind":"k","subject":"s"}', ""),
        (b'{"event_id":"a","event_time":1,"kind":"k","subject":"%s"}' % ("é" * 1024).encode(), ""),
        (b'{"event_id":"","event_time":1,"kind":"k","subject":"s"}', "missing_event_id"),
        (b'{"event_id":null,"event_time":1,"kind":"k","subject":"s"}', "bad_event_id"),
        (b'{"event_id":"a","event_time":"2023-02-29T00:00:00Z","kind":"k","subject":"s"}', "bad_time"),
        *[
            (b'{"event_id":"a","event_time":"%s","kind":"k","subject":"s"}' % when, "bad_time")
            for when in (
                b"2016-12-31T23:59:60Z",
                b"2024-01-01T24:00:00Z",
                b"0001-12-31T00:00:00Z",
                b"9999-01-01T00:00:00Z",
                b"2024-01-01T00:00:00+24:00",
                b"2024-01-01T00:60:00Z",
                b"2024-00-01T00:00:00Z",
                b"2024-04-31T00:00:00Z",
            )
        ],
        (b'{"event_id":"a","event_time":1,"kind":"k","subject":"s","props":[1]}', "bad_props"),
        (b'{"event_id":"a","event_time":1,"kind":"k","subject":"s","prop":1}', "unknown_field"),
        (b'{"event_id":"a","event_time":1,"kind":"k"}', "missing_subject"),
        (b"{}", "missing_event_id"),
    ],
)
def test_an_odd_event_is_looked_at_alone_and_keeps_its_place(loaded, event, reason):
    good = [dumps({**GOOD, "event_id": name})[1:-1] for name in "xy"]
    array, lines = b"[ %s , %s,%s]" % (good[0], event, good[1]), b"%s\n\t %s \r%s" % (good[0], event, good[1])
    assert num_left(loaded, array, lines) == (0, 2)
    rows, parts = same(loaded, [dumps(GOOD), array, lines, dumps(GOOD)])
    assert [bad.reason for bad in parts[1].bad + parts[2].bad] == [reason] * 2 * bool(reason)
    assert [bad.raw for bad in parts[2].bad] == [b"\t %s " % event] * bool(reason)
    assert rows["event_id"][1:3][:: 1 if reason else 2] == ["x", "y"][: 2 if reason else 1]


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"[", b"[1, 2", b"[3]", b"[{]", b"null", b"\xef\xbb\xbf[]", b"[" * 99_999, b"{" * 99_999, b"[]]", b"[],", b"\0"]
    + [dumps(GOOD)[:-1] + end for end in (b"", b",]", b"]]", b"]\0", b"]x", b" ", b",3]", b",null]")]
    + [dumps(GOOD)[1:-1] + end for end in (b"\n3", b",", b"\0", b"\x0b\n{}", b"{}", b"\n[]", b"\n{", b"\n\xff")]
    + [b'[{"event_id":"a","event_time":1,"kind":"k","subject":"s","props":%s}]' % props for props in
       (b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":01}', b'{"a":1.}', b'{"a":"\\ud83d"}', b'{"a":"\\x"}', b'{"a":tru}',
        b'{"a":"\x01"}', b'{"a":1,}', b'{"a" 1}', b'{"a":[1 2]}', b'{a:1}', b"{" + b'"a":{' * 70 + b"}" * 71)],
)  # fmt: skip
def test_a_body_the_kernel_is_not_sure_about_is_left_whole(loaded, body):
    assert num_left(loaded, body.strip()) == (1, 0)
    rows, _ = same(loaded, [dumps(GOOD), body, dumps(FULL)])
    assert rows["event_id"][0] == rows["event_id"][-1] == "a" and rows["object"][-1] == "o"


def test_utf8_is_what_python_takes(loaded):
    edges = [bytes([each]) for each in (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)]
    tails = [b"", *edges, *(a + b for a in edges for b in edges), *(a + b + b"\x80" for a in edges for b in edges)]
    texts = [bytes([first]) + tail for first in range(0x80, 0x100) for tail in tails]
    bodies = [b'{"event_id":"a","event_time":1,"kind":"k","subject":"s","props":{"x":"%s"}}' % text for text in texts]
    assert (scan._scan(bodies, 1, loaded.get()).counts == 1).tolist() == [is_utf8(text) for text in texts]


def is_utf8(text):
    try:
        return bool(text.decode())
    except UnicodeDecodeError:
        return False


def test_a_process_that_reads_much_loads_the_kernel(monkeypatch):
    here = scan.Loaded()
    monkeypatch.setattr(scan, "LOADED", here)
    monkeypatch.setattr(scan, "LOAD_AFTER_BYTES", 1_000)
    before, _ = scan.read([dumps(FULL)], 7)
    assert here.get() is None
    scan.read([dumps(FULL)] * 3, 7)
    for thread in threading.enumerate():  # other tests may have begun to load it too
        if thread.name == "kernels":
            thread.join()
    after, _ = scan.read([dumps(FULL)], 7)
    assert here.get() is not None and before.equals(after)


def test_without_numba_msgspec_reads_everything(monkeypatch):
    monkeypatch.setattr(scan, "LOADED", scan.Loaded())
    monkeypatch.setitem(sys.modules, "gyral.event.filling", None)
    scan.LOADED.load()
    assert scan.LOADED.get() is None and scan.read([dumps(GOOD)], 7).events["event_id"].to_pylist() == ["a"]


def test_kernels_that_read_other_than_msgspec_are_not_used(monkeypatch, loaded):
    stale = scan.Loaded()
    monkeypatch.setattr("gyral.event.filling.times", lambda into: into.micros.fill(0))
    with pytest.raises(RuntimeError, match="__pycache__"):
        stale.load()
    assert stale.get() is None


def test_a_body_of_too_many_is_refused_and_the_others_are_not(loaded):
    rows, parts = same(loaded, [dumps(GOOD, GOOD), dumps(GOOD, {}, GOOD), dumps(FULL)], max_events=2)
    assert parts[1] == (scan.TooMany, "the body has more than 2 events") and rows["object"] == [None, None, "o"]
    same(loaded, [b"[" + b"{}," * 999 + b"{}]", dumps(GOOD)])  # more rows than the kernel has room for


SPACE = st.text(" \t", max_size=2)
BREAK = st.sampled_from(["", "", "", "\n", "\r\n", "\r", "\x0b"])
TEXT = (
    st.text(max_size=6)
    | st.text(st.sampled_from('"\\/\n\0é日🙂\x7f\x80'), max_size=6)
    | st.sampled_from(["x" * 1024, "é" * 600, "x" * 1025])
)
NUMBER = st.integers() | st.integers(0, 10**14) | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
ZONES = st.sampled_from(["Z", "z", "+00:00", "-00:00", "+14:00", "-23:59", "+0530", "+24:00", ""])
TIMES = st.builds("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}{}".format, st.integers(0, 9999) | st.integers(1890, 2110),
                  st.integers(0, 13), st.integers(0, 32), st.integers(0, 24), st.integers(0, 60), st.integers(0, 60),
                  st.sampled_from(["", ".", ".1", ".000001", ".123456", ".1234567", ",5"]), ZONES)  # fmt: skip
KEY = st.sampled_from([*GOOD, *FULL]) | st.sampled_from(["Kind", "event_idx", "event", ""])
FIELDS = {"event_id": TEXT, "event_time": TIMES | NUMBER | TEXT, "props": st.dictionaries(TEXT, VALUE, max_size=3) | VALUE}


@st.composite
def event_texts(draw):
    """An event written out, with white space and breaks anywhere, fields in any order, some twice or unknown."""
    names = draw(st.permutations(list(GOOD))) if draw(st.integers(0, 5)) else []
    names = names + draw(st.lists(KEY, max_size=4)) if draw(st.booleans()) else [*dict.fromkeys(names + draw(st.lists(KEY)))]
    parts = []
    for name in names:
        value = draw(VALUE) if draw(st.integers(0, 15)) == 0 else draw(FIELDS.get(name, TEXT))
        text = json.dumps(value, ensure_ascii=draw(st.booleans()))
        gaps = [draw(SPACE) + draw(BREAK) if draw(st.integers(0, 9)) == 0 else "" for _ in range(4)]
        parts.append(f"{gaps[0]}{json.dumps(name)}{gaps[1]}:{gaps[2]}{text}{gaps[3]}")
    return "{" + ",".join(parts) + "}"


@st.composite
def body_texts(draw):
    events = draw(st.lists(event_texts(), max_size=4))
    if draw(st.booleans()):
        return (draw(SPACE) + "[" + draw(SPACE) + ("," + draw(SPACE)).join(events) + "]" + draw(BREAK)).encode(
            "utf-8", "surrogatepass"
        )
    return "".join(draw(SPACE) + event + draw(SPACE) + (draw(BREAK) or "\n") for event in events).encode(
        "utf-8", "surrogatepass"
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(body_texts(), max_size=3))
def test_whatever_is_written(loaded, bodies):
    same(loaded, bodies)


@pytest.mark.parametrize("seed", range(4))
def test_broken_bytes(loaded, seed):
    """Mutations of groups of bodies, thousands of them."""
    chance = random.Random(seed)
    for bodies in mutated(chance, 1_500):
        same(loaded, bodies)


PIECES = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xe2\x82",
    b"\\u12",
    b"null",
]
PIECES += [
    b"1e999",
    b"-",
    b"0",
    b"9",
    b"Z",
    b"T",
    b".",
    b'"kind":"x",',
    b"\x0b",
    b"\x7f",
    b"\\ud83d\\ude00",
    "é".encode(),
    b"1" * 17,
]


def mutated(chance, count):
    seeds = [dumps(GOOD, FULL), dumps(FULL, FULL, separators=(",", ":")), dumps(FULL, ensure_ascii=False)]
    seeds += [
        dumps(GOOD)[1:-1] + b"\n" + dumps(FULL)[1:-1],
        dumps({**GOOD, "event_time": "2024-02-29T01:02:03.25+05:30"}, GOOD),
    ]
    for _ in range(count):
        bodies = []
        for _ in range(chance.randrange(1, 4)):
            body = bytearray(chance.choice(seeds))
            for _ in range(chance.randrange(3)):
                at = chance.randrange(len(body))
                kind = chance.random()
                if kind < 0.4:
                    body[at] = chance.randrange(256)
                elif kind < 0.8:
                    body[at : at + chance.randrange(3)] = chance.choice(PIECES)
                elif kind < 0.9:
                    del body[at : at + chance.randrange(1, 9)]
                else:
                    del body[at:]
                body = body or bytearray(b" ")
            bodies.append(bytes(body))
        yield bodies


def test_nothing_is_read_out_of_bounds(tmp_path):
    """The same kernels with numba's checks of every index, compiled so in a process of its own."""
    code = f"""
import random, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_scan as it
loaded = it.scan.Loaded()
loaded.load()
for bodies in it.mutated(random.Random(9), 3_000):
    scanned = it.scan._scan([body.strip() for body in bodies], 100, loaded.get())
    it.scan._columns(scanned, 0, loaded.get()).validate(full=True)
"""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=200)
