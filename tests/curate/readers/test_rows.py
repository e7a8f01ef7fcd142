"""Hosts against the standard library's reading of addresses; batches of bounded size."""

from urllib.parse import urlsplit

import pytest

from gyral.curate.readers import BATCH_BYTES
from gyral.curate.readers.rows import MAX_ROWS, Row, Rows, first_folder, host

ADDRESSES = [
    "http://Example.com",
    "https://sub.example.co.uk:8443/a/b?c=d#e",
    "https://user:pass@example.org/",
    "http://192.168.0.1:80/",
    "http://[2001:db8::1]/x",
    "https://example.com?query",
    "ftp://files.example.com./a",
    "https://münchen.example/straße",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_host_is_what_the_library_says(address):
    expected = urlsplit(address).hostname.rstrip(".")
    assert host(address).strip("[]") == expected


def test_hosts_lose_www_and_nonsense_has_none():
    assert host("https://www.Example.com/") == "example.com"
    assert [host(each) for each in (None, "", "no address", "mailto:a@b.c", "http://", "/path")] == [None] * 6
    assert (first_folder("de/a/b"), first_folder("b")) == ("de", None)


def test_batches_are_bounded():
    rows, sizes = Rows(), []
    for _ in range(50):
        batch = rows.add(Row("a", 0, "text", raw=bytes(BATCH_BYTES // 3)))
        sizes += [batch.num_rows] if batch else []
    assert sizes == [3] * 16 and rows.take().num_rows == 2 and rows.take() is None
    rows.add(Row("a", 0, "text", raw=bytes(2 * BATCH_BYTES)))
    assert rows.add(Row("a", 1, "text")).num_rows == 1
    for _ in range(MAX_ROWS - 1):
        assert rows.add(Row("a", 0, "text")) is None
    assert rows.add(Row("a", 0, "text")).num_rows == MAX_ROWS


def test_a_batch_holds_what_was_added():
    added = [
        Row("ä", 3, "html", "http://a.b/", "a.b", "de", b"raw\xff", None, None),
        Row("b", -1, "text", None, None, None, None, "Größe 日本", None),
        Row("c", 0, "text", None, None, None, None, None, "empty"),
        Row("d", 0, "text", None, None, None, b"", "", None),
    ]
    rows = Rows()
    for row in added:
        rows.add(row)
    batch = rows.take()
    batch.validate(full=True)
    assert [tuple(row.values()) for row in batch.to_pylist()] == [tuple(row) for row in added]
