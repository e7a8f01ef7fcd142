"""Parquet: row groups in ranges, columns by name, what Parquet does not check."""

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from gyral.curate.readers import BATCH_BYTES, Options, open_place, read
from gyral.curate.readers.parquet import ranges
from gyral.curate.stage import DOCUMENT
from gyral.curate.text.extract import Extract


def rows_of(path, **options):
    place = open_place(str(path), path.parent, lambda line: None, options=Options(**options))
    found = []
    for part in place.parts:
        for batch in read(part):
            assert batch.schema.equals(DOCUMENT)
            batch.validate(full=True)
            found += batch.to_pylist()
    return found


def test_columns_are_found(tmp_path):
    table = pa.table(
        {
            "id": [1, 2, 3],
            "text": pa.array(["eins", None, ""], pa.large_string()),
            "metadata": [{"url": "http://www.a.org/1", "language": "de"}, {"url": None, "language": "xx"}, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = rows_of(tmp_path / "a.parquet")
    assert [(row["text"], row["rejected"], row["offset"]) for row in found] == [
        ("eins", None, 0),
        (None, "no_text_field", 1),
        (None, "empty", 2),
    ]
    assert (found[0]["url"], found[0]["domain"], found[0]["declared"]) == ("http://www.a.org/1", "a.org", "de")


def test_dictionaries_binary_html_and_a_named_column(tmp_path):
    table = pa.table({"html": [b"<p>a</p>"], "story": pa.array(["x"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet")[0]["raw"] == b"<p>a</p>"
    assert rows_of(tmp_path / "a.parquet", text="story")[0]["text"] == "x"
    assert rows_of(tmp_path / "a.parquet", text="missing")[0]["rejected"] == "no_text_field"


def test_row_groups_are_parts_with_one_result(tmp_path):
    texts = [f"{number} " * (number % 700) + "end" for number in range(5_000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=700)
    part = open_place(str(tmp_path / "a.parquet"), tmp_path, lambda line: None).parts[0]
    whole = [row for batch in read(part) for row in batch.to_pylist()]
    pieces = [msgspec.structs.replace(part, begin=begin, end=end) for begin, end in ((0, 1), (1, 5), (5, 8))]
    assert [row for piece in pieces for batch in read(piece) for row in batch.to_pylist()] == whole
    assert [row["text"] for row in whole] == texts and [row["offset"] for row in whole] == list(range(5_000))
    assert ranges(tmp_path / "a.parquet") == [(0, 8)]


def test_batches_are_bounded_and_large_documents_rejected(tmp_path):
    pq.write_table(pa.table({"text": ["x" * (3 << 20)] * 20 + ["y" * (9 << 20)]}), tmp_path / "a.parquet")
    place = open_place(str(tmp_path / "a.parquet"), tmp_path, lambda line: None, options=Options(max_document_bytes=8 << 20))
    batches = [batch for part in place.parts for batch in read(part)]
    assert max(batch.column("text").nbytes for batch in batches) <= BATCH_BYTES + 1000
    assert [row for batch in batches for row in batch["rejected"].to_pylist()] == [None] * 20 + ["too_large"]


def test_bytes_that_are_no_utf8_are_decoded_later(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9 au lait, s'il vous pla\xeet", b"ok"]).buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    place = open_place(str(tmp_path / "a.parquet"), tmp_path, lambda line: None)
    batch = next(iter(read(place.parts[0])))
    assert Extract()(batch)["text"].to_pylist() == ["café au lait, s'il vous plaît", "ok"]


def test_a_damaged_file_is_counted(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing else")
    pq.write_table(pa.table({"text": ["fine"]}), tmp_path / "b.parquet")
    assert [(row["rejected"], row["text"]) for row in rows_of(tmp_path)] == [("corrupt_record", None), (None, "fine")]
