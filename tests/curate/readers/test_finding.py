"""Places: what is found in a folder, how it is cut, and that a cut stays where it was."""

import os
import re
from html import unescape

import msgspec
import pytest

from gyral.curate.readers import PART_BYTES, File, Options, open_place, read
from gyral.curate.readers.declared import by_path, by_root, language_code
from gyral.curate.readers.finding import cut
from gyral.curate.readers.forms import Form, by_head, by_name, xml_form
from gyral.curate.text.extract import Extract
from gyral.errors import InputError
from gyral.packages.fetch import cache_folder


def opened(uri, root, **options):
    return open_place(str(uri), root, lambda line: None, **options)


def rows(place):
    return [row for part in place.parts for batch in read(part) for row in batch.to_pylist()]


def test_a_mixed_folder_gives_its_documents_by_reader_and_path(tmp_path):
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "b.html").write_text("<html lang='fr'><p>bonjour</p></html>")
    (tmp_path / "de" / "a.txt").write_text("Hallo")
    (tmp_path / "c.jsonl").write_text('{"text": "hi"}\n')
    (tmp_path / "style.css").write_text("p {}")
    (tmp_path / ".hidden.txt").write_text("no")
    notes = []
    place = open_place(str(tmp_path), tmp_path, notes.append)
    assert place.kind == "text"
    assert [(row["file"], row["domain"], row["declared"], row["media"]) for row in rows(place)] == [
        ("de/a.txt", "de", "de", "text"),
        ("de/b.html", "de", "fr", "html"),
        ("c.jsonl", None, None, "text"),
    ]
    assert "1 .css" in notes[0] and "1 hidden" in notes[0]


def test_links_that_lead_out_are_not_followed(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (inside / "a.txt").write_text("a")
    os.symlink(outside, inside / "folder")
    os.symlink(outside / "secret.txt", inside / "b.txt")
    os.mkfifo(inside / "pipe.txt")
    assert [row["file"] for row in rows(opened(inside, tmp_path))] == ["a.txt"]


def test_parts_do_not_depend_on_the_order_of_a_listing(tmp_path, monkeypatch):
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text("x" * number)
    first = opened(tmp_path, tmp_path)
    scandir = os.scandir

    class Turned:
        def __init__(self, path):
            self.entries = sorted(scandir(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Turned)
    assert opened(tmp_path, tmp_path) == first


def test_a_file_more_changes_few_parts():
    files = [File(f"{number:05}.html", 40_000 + 13 * number % 7_000, "") for number in range(20_000)]
    before = cut(files, False)
    assert all(sum(file.size_bytes for file in part) <= PART_BYTES for part in before)
    assert [file for part in before for file in part] == files
    mean = sum(file.size_bytes for file in files) / len(before)
    assert PART_BYTES / 8 < mean < PART_BYTES
    for place in (0, 7_777, 19_999):
        more = [*files[:place], File(f"{place:05}.add.html", 50_000, ""), *files[place:]]
        old = {tuple(file.path for file in part) for part in before}
        assert sum(tuple(file.path for file in part) not in old for part in cut(more, False)) <= 4


def test_large_files_that_can_be_entered_stand_alone():
    files = [File("a.jsonl", 10, ""), File("b.jsonl", PART_BYTES + 1, ""), File("c.jsonl", 10, "")]
    assert [[file.path for file in part] for part in cut(files, True)] == [["a.jsonl"], ["b.jsonl"], ["c.jsonl"]]


def test_several_sources_keep_their_names_apart(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    place = opened("one two", tmp_path)
    assert place.name == "one+two"
    assert [row["file"] for row in rows(place)] == ["one/a.txt", "two/a.txt"]


@pytest.mark.parametrize("uri", ["missing", "", "'open", "apt:UPPER"])
def test_a_place_that_is_not_there_is_told(tmp_path, uri):
    with pytest.raises(InputError):
        opened(uri, tmp_path)


def test_a_folder_without_documents_is_told(tmp_path):
    (tmp_path / "a.css").write_text("p {}")
    with pytest.raises(InputError, match="no document"):
        opened(tmp_path, tmp_path)


def test_the_stamp_changes_with_the_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    os.utime(path, ns=(1, 1))
    before = opened(path, tmp_path).parts[0].files[0]
    os.utime(path, ns=(2, 2))
    assert opened(path, tmp_path).parts[0].files[0] != before


def test_a_part_travels_as_json(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    part = opened(tmp_path, tmp_path, options=Options(text="body")).parts[0]
    assert msgspec.json.decode(msgspec.json.encode(part), type=type(part)) == part


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("usr/share/help/pt_BR/a.page", "pt"),
        ("help/C/a.page", "en"),
        ("help/sr@latin/a.page", "sr"),
        ("doc/zh-CN/images/a.html", "zh"),
        ("doc/manual.ja.html", "ja"),
        ("de/manual.fr.html", "fr"),
        ("share/doc/a.html", None),
        ("src/usr/lib/a.tar.txt", None),
        ("ast/a.page", "ast"),
    ],
)
def test_the_language_of_a_path(path, language):
    assert by_path(path) == language


def test_the_language_of_a_root():
    assert by_root(b'<!doctype html><html class="x" lang="pt-BR">', "html") == "pt"
    assert by_root(b'<?xml version="1.0"?>\n<page id="a" xml:lang="sr">', "mallard") == "sr"
    assert by_root(b"<html><p lang='de'>", "html") is None
    assert language_code("de_DE.UTF-8") == "de"
    assert language_code("english") is None


def test_forms():
    assert by_name("a/B.HTML") == Form("files", "html")
    assert by_name("c4.json.gz") == Form("jsonl", "", ".gz")
    assert by_name("CC-MAIN.warc.wet.gz") == Form("warc", "", ".gz")
    assert [by_name(name) for name in ("a.css", "html", ".html", "a.json", "README", "x.gz")] == [None] * 6
    assert by_head(b"\0\1\2\3binary") is None
    assert by_head(b"<!DOCTYPE html><p>") == Form("files", "html")
    assert by_head(b"just words") == Form("files", "text")
    assert xml_form(b'<?xml version="1.0"?><!DOCTYPE book PUBLIC "-//OASIS//DTD DocBook XML V4.5//EN" "x"><book>') == Form(
        "files", "docbook"
    )
    assert xml_form(b"<svg xmlns='http://www.w3.org/2000/svg'>") is None


@pytest.mark.skipif(not list((cache_folder() / "apt" / "gnome-user-docs-newest").glob("*.deb")), reason="was not fetched")
def test_pages_of_a_package(tmp_path):
    """13,131 pages in 42 folders, 15.4 M characters beside credits and descriptions: the figures of the data sheet."""
    place = opened("apt:gnome-user-docs", tmp_path)
    found, characters, expected = [], 0, 0
    for part in place.parts:
        for batch in read(part):
            out = Extract()(batch)
            assert out["extract_failed"].null_count == len(out)
            characters += sum(map(len, out["text"].to_pylist()))
            for raw in batch["raw"].to_pylist():
                bare = re.sub(r"<info>.*?</info>", "", raw.decode(), flags=re.DOTALL)
                expected += len(" ".join(unescape(re.sub(r"<[^>]*>", "", bare)).split()))
            found += zip(out["domain"].to_pylist(), out["declared"].to_pylist(), strict=True)
    assert len(found) == 13_131 and len({domain for domain, _ in found}) == 42
    assert all(language for _, language in found)
    assert 15_000_000 < characters < 16_000_000 and abs(characters / expected - 1) < 0.01
