"""Rows by index out of shards that the formats' own libraries wrote; `write_fixtures.py` says what is in them."""

import importlib.util
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.errors import InputError
from gyral.train import readers
from gyral.train.readers.webdataset import INDEX

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("write_fixtures", HERE / "write_fixtures.py")
written = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(written)


@pytest.fixture
def shards(tmp_path):
    """A copy of a format's fixture, to be written beside or damaged."""

    def copy(name):
        return Path(shutil.copytree(HERE / "fixtures" / name, tmp_path / name))

    return copy


@pytest.mark.parametrize("name", ["mds", "mds-zstd", "lit"])
def test_rows_of_mds_and_litdata_are_what_their_libraries_were_given(shards, name):
    rows = readers.open_rows(shards(name))
    assert len(rows) == 7 and set(rows.columns) == {"text", "image", "label", "weight", "tokens", "pair", "free"}
    order = np.array([5, 0, 6, 3, 3, 1])
    found = rows.read(order)
    assert found["text"] == [written.text(number) for number in order]
    assert found["image"] == [written.png(number) for number in order]
    assert found["label"].tolist() == (order - 3).tolist() and found["weight"].tolist() == (order / 4).tolist()
    for at, number in enumerate(order.tolist()):
        assert found["tokens"][at].dtype == np.uint16
        assert np.array_equal(found["tokens"][at], np.arange(number + 1) * 300)
        assert np.array_equal(np.ravel(found["pair"][at]), [number, -number])
        assert found["free"][at].shape == (2, number + 1) and (found["free"][at] == number).all()
    assert list(rows.read(order, ["label"])) == ["label"]
    assert rows.read(np.array([], np.int64))["text"] == []


def test_rows_of_webdataset_are_what_the_library_was_given_and_the_tars_are_walked_once(shards, monkeypatch):
    folder = shards("wds")
    rows = readers.open_rows(folder)
    assert len(rows) == 7 and set(rows.columns) == {"png", "txt", "cls", "json"}
    order = np.array([6, 2, 4, 0])
    found = rows.read(order)
    assert found["txt"] == [written.text(number) for number in order]
    assert found["png"] == [written.png(number) for number in order]
    assert found["cls"].tolist() == order.tolist() and found["json"] == [{"n": number} for number in order]
    assert (folder / INDEX).exists()
    monkeypatch.setattr(tarfile, "open", None)  # whoever walks them again fails
    again = readers.open_rows(folder)
    assert again.read(order)["txt"] == found["txt"] and again.digest == rows.digest


def test_a_tar_that_changed_is_walked_again_and_rows_may_lack_members(shards):
    folder = shards("wds")
    before = readers.open_rows(folder)
    with tarfile.open(folder / "pairs-0002.tar", "w") as tar:
        for name, body in (("x.txt", b"only text"), ("y.png", b"only a picture"), (".hidden/.z.txt", b"no")):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    rows = readers.open_rows(folder)
    assert len(rows) == 9 and rows.digest != before.digest
    assert rows.read(np.array([8, 7]))["txt"] == [None, "only text"]


def test_rows_of_parquet_come_in_the_order_asked_for(tmp_path):
    drawn = np.random.default_rng(0)
    texts = [f"text {number}" for number in range(1000)]
    for file, (low, high) in enumerate([(0, 400), (400, 1000)]):
        table = pa.table({"text": texts[low:high], "number": np.arange(low, high), "maybe": [None, 1] * ((high - low) // 2)})
        pq.write_table(table, tmp_path / f"{file}.parquet", row_group_size=37)
    rows = readers.open_rows(tmp_path)
    order = drawn.integers(0, 1000, 300)
    found = rows.read(order)
    assert len(rows) == 1000 and found["number"].tolist() == order.tolist()
    assert found["text"] == [texts[number] for number in order]
    assert found["maybe"] == [number % 2 or None for number in order.tolist()]


@pytest.mark.parametrize(
    ("name", "file", "rows"),
    [("mds", "shard.00001.mds", 5), ("lit", "chunk-0-1.bin", 5), ("mds-zstd", "shard.00001.mds.zstd", 5)],
)
def test_a_shard_that_is_cut_short_or_gone_is_named(shards, name, file, rows):
    folder = shards(name)
    body = (folder / file).read_bytes()
    (folder / file).write_bytes(body[:150])
    opened = readers.open_rows(folder)
    opened.read(np.array([0]))  # the others can be used
    with pytest.raises(InputError, match=f"the shard `{file}` cannot be used") as caught:
        opened.read(np.array([rows]))
    assert caught.value.why and caught.value.hint and str(folder) in caught.value.where
    (folder / file).unlink()
    with pytest.raises(InputError, match=file):
        readers.open_rows(folder).read(np.array([rows]))


def test_a_compressed_shard_with_other_bytes_is_found(shards):
    folder = shards("mds-zstd")
    index = json.loads((folder / "index.json").read_text())
    index["shards"][1]["raw_data"]["hashes"]["sha1"] = "0" * 40
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="not those that were written"):
        readers.open_rows(folder).read(np.array([6]))


def test_a_tar_that_is_cut_short_is_named(shards):
    folder = shards("wds")
    path = folder / "pairs-0001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"the shard `pairs-0001\.tar` cannot be used"):
        readers.open_rows(folder)


def test_what_is_pickled_or_of_another_kind_is_refused(shards, tmp_path):
    folder = shards("mds")
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:
        shard["column_encodings"][0] = "pkl"
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="not read") as caught:
        readers.open_rows(folder)
    assert "`free` is stored as pkl" in caught.value.why
    folder = shards("lit")
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "config": {**index["config"], "compression": "zstd"}}))
    with pytest.raises(InputError, match="not read"):
        readers.open_rows(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(InputError, match="index of the shards"):
        readers.open_rows(folder)
    assert not readers.is_readable(tmp_path / "nothing")
    with pytest.raises(InputError, match="no shards"):
        readers.open_rows(tmp_path)


def test_rows_and_columns_that_are_not_there_are_named(shards):
    rows = readers.open_rows(shards("lit"))
    with pytest.raises(InputError, match="no row 7"):
        rows.read(np.array([1, 7]))
    with pytest.raises(InputError, match="no column `txt`") as caught:
        rows.read(np.array([1]), ["txt"])
    assert "`text`" in caught.value.hint
