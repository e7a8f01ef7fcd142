"""Blob columns go through the lake's own commits, and are on the disk when those return, however large they are."""

import os

import pyarrow as pa
import pytest

from gyral.lake import table
from gyral.lake.commit import LakeError
from gyral.lake.snapshot import blob_field
from gyral.lake.table import Lake

SIZES = [0, 1, 50_000, 70_000, 5_000_000]
"""Lance keeps small ones in the data file, puts larger ones together in a file beside it, the largest in one of their own."""


@pytest.fixture
def lake(tmp_path, monkeypatch):
    schema = pa.schema([pa.field("event_id", pa.string(), nullable=False), blob_field("image")])
    monkeypatch.setitem(table.TABLES, "images", schema)
    return Lake(tmp_path)


def rows(blobs):
    schema = table.TABLES["images"]
    ids = pa.array([str(number) for number in range(len(blobs))])
    return pa.table([ids, pa.array(blobs, pa.large_binary())], schema=schema)


def blobs(seed):
    return [bytes([seed + number]) * size for number, size in enumerate(SIZES)] + [None]


def test_each_comes_back_from_before_and_after_a_compaction(lake):
    kept = [*blobs(0), *blobs(9)]
    snapshot = lake.open("images").commit(rows(kept[:6]), {"p": 1}).commit(rows(kept[6:]), {"p": 2})
    merged = snapshot.compact()
    assert snapshot.num_fragments == 2 and merged.num_fragments == 1
    for places in (list(range(12)), [11, 3, 3, 0, 4, 8], []):
        for each in (snapshot, merged, merged.compact(), lake.snapshot("images", snapshot.version)):
            assert each.take_blobs("image", places) == [kept[place] for place in places]
    assert merged.read(["event_id"])["event_id"].to_pylist() == 2 * [str(number) for number in range(6)]


def test_a_position_that_is_not_there_is_an_error(lake):
    snapshot = lake.open("images").commit(rows(blobs(0)), {"p": 1})
    with pytest.raises(LakeError, match="cannot be read"):
        snapshot.take_blobs("image", [6])


def test_large_ones_are_flushed_with_the_rows_and_by_a_compaction_and_once_more_for_others(lake, tmp_path, monkeypatch):
    flushed = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.add(os.fstat(fd).st_ino), real(fd))[1])

    def left():
        made = [path for path in (tmp_path / "lake/images").rglob("*") if "latest_version_hint" not in path.name]
        assert any(path.suffix == ".blob" for path in made)
        return [path for path in made if path.stat().st_ino not in flushed]

    snapshot = lake.open("images").commit(rows(blobs(0)), {"p": 1}).commit(rows(blobs(9)), {"p": 2})
    assert left() == []
    flushed.clear()
    snapshot.make_durable(set())
    assert [path for path in left() if path.suffix in (".lance", ".blob")] == []
    snapshot.compact()
    assert [path for path in left() if path.suffix in (".lance", ".blob")] == []
