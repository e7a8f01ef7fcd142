"""Files that are one document each: packed, empty, too large, unreadable, gone."""

import gzip
import time

import pyarrow as pa

from gyral.curate.readers import Options, open_place, read
from gyral.curate.text.extract import Extract


def rows_of(folder, **options):
    place = open_place(str(folder), folder, lambda line: None, options=Options(**options))
    return {row["file"]: row for part in place.parts for batch in read(part) for row in Extract()(batch).to_pylist()}


def test_faults_are_counted_and_the_rest_is_read(tmp_path):
    (tmp_path / "good.html").write_text("<html><body><article><p>" + "Some words of a page. " * 20 + "</article>")
    (tmp_path / "empty.html").write_bytes(b"")
    (tmp_path / "large.txt").write_bytes(b"x" * 2_000)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(b"packed words"))
    (tmp_path / "packed.txt.zst").write_bytes(pa.compress(b"more packed words", codec="zstd", asbytes=True))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"packed words" * 100)[:-10])
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "wide.txt").write_bytes("Größe".encode("utf-16"))
    (tmp_path / "zeros.html").write_bytes(bytes(500))
    found = rows_of(tmp_path, max_document_bytes=1_500)
    told = {name: row["rejected"] or row["extract_failed"] for name, row in found.items()}
    assert told == {
        "good.html": None,
        "empty.html": "empty",
        "large.txt": "too_large",
        "packed.txt.gz": None,
        "packed.txt.zst": None,
        "cut.txt.gz": "corrupt_record",
        "binary.txt": "binary",
        "wide.txt": None,
        "zeros.html": "binary",
    }
    assert found["packed.txt.gz"]["text"] == "packed words" and found["wide.txt"]["text"] == "Größe"
    assert found["packed.txt.zst"]["text"] == "more packed words"
    assert all(row["offset"] == -1 for row in found.values())


def test_a_bomb_is_not_unpacked(tmp_path):
    (tmp_path / "bomb.html.gz").write_bytes(gzip.compress(bytes(300 << 20), 9))
    (tmp_path / "bomb.txt.zst").write_bytes(pa.compress(bytes(300 << 20), codec="zstd", asbytes=True))
    began = time.process_time()
    found = rows_of(tmp_path, max_document_bytes=1 << 20)
    assert {row["rejected"] for row in found.values()} == {"too_large"}
    assert time.process_time() - began < 0.5


def test_a_file_that_went_away_is_counted(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    place = open_place(str(tmp_path), tmp_path, lambda line: None)
    (tmp_path / "a.txt").unlink()
    rows = [row for part in place.parts for batch in read(part) for row in batch.to_pylist()]
    assert [(row["file"], row["rejected"]) for row in rows] == [("a.txt", "unreadable_file"), ("b.txt", None)]


def test_one_file_whose_name_says_nothing(tmp_path):
    (tmp_path / "page").write_text("<!doctype html><html><body><p>" + "Words of a page. " * 30)
    place = open_place(str(tmp_path / "page"), tmp_path, lambda line: None)
    row = next(iter(read(place.parts[0]))).to_pylist()[0]
    assert row["media"] == "html" and place.name == "page"


def test_xml_is_told_by_its_root(tmp_path):
    (tmp_path / "a.xml").write_text(
        '<?xml version="1.0"?><article xmlns="http://docbook.org/ns/docbook"><para>Hi</para></article>'
    )
    (tmp_path / "b.xml").write_text("<svg/>")
    found = rows_of(tmp_path)
    assert [(name, row["media"], row["text"]) for name, row in found.items()] == [("a.xml", "docbook", "Hi")]
