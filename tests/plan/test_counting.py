"""Counts against files whose rows are known: plain, packed, and too large to be read whole."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.config import Config
from gyral.errors import InputError, UsageError
from gyral.plan import counting


def lines(count):
    return [json.dumps({"subject": f"s{n}", "object": f"o{n % 97}", "time": n}) for n in range(count)]


def test_rows_of_parquet_are_those_of_its_footer(tmp_path):
    pq.write_table(pa.table({"a": range(12_345)}), tmp_path / "a.parquet")
    rows, held = counting.rows_of(str(tmp_path / "a.parquet"))
    assert (rows.value, rows.by) == (12_345, "counted") and held.value == (tmp_path / "a.parquet").stat().st_size


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_small_file_is_counted_whole(tmp_path, ending):
    (tmp_path / "a.csv").write_text("subject,object,time\n" + "\n".join(f"s,o,{n}" for n in range(500)) + ending)
    (tmp_path / "a.jsonl").write_text("\n".join(lines(500)) + ending)
    for name in ("a.csv", "a.jsonl"):
        rows, _ = counting.rows_of(str(tmp_path / name))
        assert (rows.value, rows.by, *rows.interval) == (500, "counted", 500, 500), name


def test_a_large_file_is_told_by_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "SAMPLE_BYTES", 4_000_000)
    text = "\n".join(lines(400_000)) + "\n"
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    with pa.CompressedOutputStream(str(tmp_path / "c.csv.zst"), "zstd") as file:
        file.write(b"subject,object,time\n" + "".join(f"s{n},o{n % 97},{n}\n" for n in range(400_000)).encode())
    for name in ("a.jsonl", "b.jsonl.gz", "c.csv.zst"):
        rows, _ = counting.rows_of(str(tmp_path / name))
        assert rows.by == "measured" and rows.low < rows.value < rows.high, name
        assert rows.value == pytest.approx(400_000, rel=0.1) and rows.low < 400_000 < rows.high, name


def test_documents_of_files_and_of_lines(tmp_path):
    for n in range(30):
        (tmp_path / f"{n}.txt").write_text("words " * 50)
    documents, held, kind = counting.documents_of(str(tmp_path), Config(), lambda _: None)
    assert (documents.value, documents.by, held.value, kind) == (30, "counted", 30 * 300, "text")
    (tmp_path / "docs.jsonl").write_text("\n".join(json.dumps({"text": f"{n} words " * 20}) for n in range(200)))
    documents, _, _ = counting.documents_of(str(tmp_path / "docs.jsonl"), Config(), lambda _: None)
    assert (documents.value, documents.by) == (200, "counted")


def test_what_would_be_fetched_is_not_counted(tmp_path):
    for source in ("pip:numpy==2.0.0!/numpy/version.py", "npm:left-pad@1.0.0"):
        with pytest.raises(UsageError, match="fetched before"):
            counting.rows_of(source)
        with pytest.raises(UsageError, match="fetched before"):
            counting.documents_of(source, Config(), lambda _: None)
    with pytest.raises(InputError, match="no file"):
        counting.rows_of(str(tmp_path / "none.csv"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(InputError, match="cannot be read"):
        counting.rows_of(str(tmp_path / "bad.parquet"))
