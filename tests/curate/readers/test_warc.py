"""WARC written byte by byte here, read in the middle, damaged in every way that was met."""

import gzip
import io
import itertools
import random
from pathlib import Path

import msgspec
import pytest

from gyral.curate.readers import Options, open_place, read

LINE = b"\r\n"


def warc_record(kind: bytes, block: bytes, *headers: bytes) -> bytes:
    head = [b"WARC/1.0", b"WARC-Type: " + kind, b"WARC-Record-ID: <urn:uuid:0>", b"WARC-Date: 2026-01-01T00:00:00Z", *headers]
    return LINE.join([*head, b"Content-Length: %d" % len(block), b"", b""]) + block + LINE + LINE


def response(url: str, body: bytes, content_type: bytes = b"text/html", status: bytes = b"200 OK", *headers: bytes) -> bytes:
    http = LINE.join([b"HTTP/1.1 " + status, b"Content-Type: " + content_type, *headers, b"", b""]) + body
    return warc_record(
        b"response", http, b"WARC-Target-URI: " + url.encode(), b"Content-Type: application/http; msgtype=response"
    )


def page(number: int) -> bytes:
    words = random.Random(number)
    text = " ".join(f"{words.randrange(10**6)}" for _ in range(400))
    return f"<html lang='de'><body><p>page {number}: {text}</p></body></html>".encode()


def pages(count: int) -> list[bytes]:
    found = [warc_record(b"warcinfo", b"software: test")]
    for number in range(count):
        found.append(response(f"http://www.site{number % 3}.org/{number}", page(number)))
        found.append(warc_record(b"metadata", b"fetchTimeMs: 12"))
    return found


def packed(records: list[bytes]) -> tuple[bytes, list[int]]:
    """A WARC.gz of these records, and the byte at which each begins."""
    out, places = io.BytesIO(), []
    for record in records:
        places.append(out.tell())
        out.write(gzip.compress(record, mtime=0))
    return out.getvalue(), places


def rows_of(path: Path, **options) -> list[dict]:
    place = open_place(str(path), Path("/"), lambda line: None, options=Options(**options))
    return [row for part in place.parts for batch in read(part) for row in batch.to_pylist()]


def numbers(rows: list[dict]) -> list[int]:
    return [int(row["url"].rpartition("/")[2]) for row in rows if row["url"]]


@pytest.mark.parametrize("ending", [".warc", ".warc.gz"])
def test_records_with_their_place(tmp_path, ending):
    records = pages(20)
    data, places = packed(records)
    if ending == ".warc":
        data, places = b"".join(records), [0, *itertools.accumulate(map(len, records))][:-1]
    (tmp_path / f"a{ending}").write_bytes(data)
    rows = rows_of(tmp_path / f"a{ending}")
    assert [row["raw"] for row in rows] == [page(number) for number in range(20)]
    assert [row["offset"] for row in rows] == places[1::2]
    assert rows[4]["domain"] == "site1.org" and rows[4]["declared"] == "de" and rows[4]["media"] == "html"


def test_what_is_no_document_is_left_out(tmp_path):
    records = [
        response("http://a.org/1", b"\x89PNG", b"image/png"),
        response("http://a.org/2", b"moved", b"text/html", b"301 Moved"),
        response("http://a.org/3", b"plain words", b"text/plain; charset=utf-8"),
        response("http://a.org/4", b""),
        warc_record(b"conversion", "Wörter".encode(), b"WARC-Target-URI: http://a.org/5", b"Content-Type: text/plain"),
        warc_record(b"request", b"GET / HTTP/1.1\r\n\r\n", b"WARC-Target-URI: http://a.org/6"),
    ]
    (tmp_path / "a.warc.wet.gz").write_bytes(packed(records)[0])
    rows = rows_of(tmp_path)
    assert [(row["url"][-1], row["media"], row["rejected"]) for row in rows] == [
        ("3", "text", None),
        ("4", "html", "empty"),
        ("5", "text", None),
    ]
    assert rows[2]["raw"].decode() == "Wörter"


def test_the_charset_of_the_header_is_kept(tmp_path):
    text = "Привет, мир"
    records = [
        response("http://a.org/1", text.encode("cp1251"), b"text/html; charset=windows-1251"),
        response("http://a.org/2", text.encode(), b"text/html; charset=windows-1251"),
        response("http://a.org/3", text.encode("utf-16-le"), b"text/html; charset=utf-16le"),
        response("http://a.org/4", b"abc", b"text/html; charset=nonsense"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(packed(records)[0])
    assert [row["raw"].decode("utf-8-sig") for row in rows_of(tmp_path)] == [text, text, text, "abc"]


def test_packed_and_chunked_bodies(tmp_path):
    body = b"<p>hello</p>" * 50
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:100], body[100:])) + b"0\r\n\r\n"
    records = [
        response("http://a.org/1", gzip.compress(body), b"text/html", b"200 OK", b"Content-Encoding: gzip"),
        response("http://a.org/2", chunked, b"text/html", b"200 OK", b"Transfer-Encoding: chunked"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(packed(records)[0])
    assert [row["raw"] for row in rows_of(tmp_path)] == [body, body]


def test_any_ranges_give_the_same_records(tmp_path):
    data, places = packed(pages(60))
    path = tmp_path / "a.warc.gz"
    path.write_bytes(data)
    part = open_place(str(path), tmp_path, lambda line: None).parts[0]
    whole = [row for batch in read(part) for row in batch.to_pylist()]
    draw = random.Random(3)
    for _ in range(20):
        edges = sorted({0, len(data), *(draw.randrange(len(data)) for _ in range(4)), *draw.sample(places, 2)})
        ranges = [msgspec.structs.replace(part, begin=begin, end=end) for begin, end in itertools.pairwise(edges)]
        assert [row for each in ranges for batch in read(each) for row in batch.to_pylist()] == whole


@pytest.mark.parametrize("damage", ["body", "magic", "header", "between"])
def test_a_corrupt_record_costs_itself(tmp_path, damage):
    data, places = packed(pages(30))
    place, body = places[1 + 2 * 12], bytearray(data)
    if damage == "body":
        body[place + 300 : place + 340] = bytes(40)
    elif damage == "magic":
        body[place : place + 4] = b"oops"
    elif damage == "header":
        body[place : places[2 + 2 * 12]] = gzip.compress(b"WARC/1.0\r\nContent-Length: many\r\n\r\nabc")
    else:
        body[place:place] = b"bytes that are no member"
    (tmp_path / "a.warc.gz").write_bytes(bytes(body))
    rows = rows_of(tmp_path)
    bad = [row for row in rows if row["rejected"]]
    assert [row["rejected"] for row in bad] == ["corrupt_record"]
    expected = [number for number in range(30) if number != 12 or damage == "between"]
    assert numbers(rows) == expected
    if damage != "header":
        assert bad[0]["offset"] == place


def test_a_corrupt_record_of_a_plain_file_costs_itself(tmp_path):
    records = pages(10)
    records[7] = records[7].replace(b"Content-Length: ", b"Content-Length: x", 1)
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    rows = rows_of(tmp_path)
    assert [row["rejected"] for row in rows if row["rejected"]] == ["corrupt_record"]
    assert numbers(rows) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("left", [5, 60, 200, 1000])
def test_a_file_that_is_cut_off(tmp_path, left):
    data, places = packed(pages(10))
    place = places[1 + 2 * 8]
    (tmp_path / "a.warc.gz").write_bytes(data[: place + left])
    rows = rows_of(tmp_path)
    assert numbers(rows) == list(range(8))
    assert [(row["offset"], row["rejected"]) for row in rows if row["rejected"]] == [(place, "corrupt_record")]


def test_noise_gives_no_error(tmp_path):
    data, _ = packed(pages(12))
    draw = random.Random(7)
    for _ in range(60):
        body = bytearray(data)
        for _ in range(draw.randrange(1, 12)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        path = tmp_path / "a.warc.gz"
        path.write_bytes(bytes(body[: draw.randrange(len(body) // 2, len(body))]))
        rows = rows_of(path)
        assert rows
        for row in rows:
            # a checksum stands behind every member, so what came through is as it was written
            assert row["rejected"] == "corrupt_record" or row["raw"] == page(int(row["url"].rpartition("/")[2]))


def test_bombs_are_not_unpacked(tmp_path):
    zeros = gzip.compress(bytes(200 << 20), 9)
    records = [
        response("http://a.org/1", zeros, b"text/html", b"200 OK", b"Content-Encoding: gzip"),
        response("http://a.org/2", bytes(100 << 20), b"text/html"),
        response("http://a.org/3", b"<p>fine</p>"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(packed(records)[0])
    rows = rows_of(tmp_path, max_document_bytes=1 << 20)
    assert [row["rejected"] for row in rows] == ["too_large", "too_large", None]
