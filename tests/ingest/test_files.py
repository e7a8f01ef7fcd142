"""Files of every kind, with every kind of dirt, through the log into the lake."""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral import config as configs
from gyral.doctor import examine
from gyral.errors import InputError
from gyral.event.schema import EVENT
from gyral.ingest.files import cut, layout_of
from gyral.ingest.sources import delimited, open_source
from gyral.lake.commit import LakeError
from gyral.log.sqlite import SqliteLog

MAP = {"subject": "user", "object": "item", "time": "at"}
GOOD = [
    ("u1", "i1", "2020-01-01T00:00:00Z", 3),
    ("u2", "i2", "2020-01-01T00:00:01Z", 4),
    ("u1", "i2", "2020-01-01T00:00:02Z", 5),
]


def write_csv(path, rows=GOOD, header="user,item,at,stars"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def as_jsonl(path, rows=GOOD):
    path.write_text("".join(json.dumps(dict(zip(("user", "item", "at", "stars"), row, strict=True))) + "\n" for row in rows))
    return path


def as_parquet(path, rows=GOOD):
    columns = list(zip(*rows, strict=True))
    pq.write_table(pa.table(dict(zip(("user", "item", "at", "stars"), map(list, columns), strict=True))), path)
    return path


@pytest.mark.parametrize(("name", "write"), [("x.csv", write_csv), ("x.jsonl", as_jsonl), ("x.parquet", as_parquet)])
def test_csv_json_lines_and_parquet_give_the_same_events(project, tmp_path, name, write):
    summary = project.ingest(write(tmp_path / name), ingest__map=MAP)
    assert (summary["accepted"], summary["duplicate"], summary["quarantined"]) == (3, 0, {})
    rows = project.events(["subject", "object", "event_time", "kind", "props", "schema_id"])
    assert [(row["subject"], row["object"], row["event_time"].isoformat()) for row in rows] == [
        (row[0], row[1], row[2].replace("Z", "+00:00")) for row in GOOD
    ]
    assert [int(json.loads(row["props"])["stars"]) for row in rows] == [3, 4, 5]
    assert {row["kind"] for row in rows} == {"interaction"}


def test_reading_again_adds_nothing_and_equal_lines_stay_two_events(project, tmp_path):
    path = write_csv(tmp_path / "x.csv", [*GOOD, GOOD[0]])
    assert project.ingest(path, ingest__map=MAP)["accepted"] == 4
    again = project.ingest(path, ingest__map=MAP, ingest__batch_rows=2)
    assert (again["accepted"], again["duplicate"]) == (0, 4)
    copy = tmp_path / "renamed.csv"
    copy.write_bytes(path.read_bytes())
    assert project.ingest(copy, ingest__map=MAP)["accepted"] == 0
    assert len({row["event_id"] for row in project.events(["event_id"])}) == 4


def test_rows_keep_a_unique_place_in_the_log(project, retail):
    project.ingest(retail, ingest__batch_rows=100_000)
    places = project.lake.snapshot("events").read(["src_partition", "src_offset", "src_index"])
    assert places.num_rows == 541_909
    assert len(set(zip(*(places[name].to_pylist() for name in places.column_names), strict=True))) == 541_909


def test_bad_rows_are_counted_by_reason_with_their_bytes_and_cost_nobody_else(project, tmp_path):
    rows = [*GOOD, ("u3", "i3", "not a time", 1), ("u4", "i4", "", 1), ("u5", "i5", "2020-01-01T00:00:03Z", 1, "extra")]
    summary = project.ingest(write_csv(tmp_path / "x.csv", rows), ingest__map=MAP)
    assert summary["accepted"] == 3
    assert summary["quarantined"] == {"bad_time": 1, "missing_time": 1, "wrong_number_of_columns:5": 1}
    by_reason = {row["reason"]: row["raw"] for row in project.quarantine()}
    assert b"not a time" in by_reason["bad_time"] and b"extra" in by_reason["wrong_number_of_columns:5"]


def test_bad_prices_and_dates_of_the_shop_are_quarantined(project, tmp_path):
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"
    rows = [
        ("1", "12345", "A", 1, "2011-01-01 10:00", 2.5, "17850.0", "France"),
        ("2", "12345", "A", 1, "2011-01-01 10:01", "cheap", 2, "France"),
        ("3", "12345", "A", "many", "2011-01-01 10:01", 1, 2, "France"),
        ("4", "12345", "A", 1, "31/31/2011", 1, 2, "France"),
        ("5", "12345", "A", 1, "2011-01-01 10:02", "inf", 2, "France"),
    ]
    summary = project.ingest(write_csv(tmp_path / "x.csv", rows, header))
    assert summary["accepted"] == 1
    assert summary["quarantined"] == {"bad_number:UnitPrice": 2, "bad_number:Quantity": 1, "bad_time": 1}
    event = project.events()[0]
    assert (event["subject"], event["schema_id"], event["country"]) == ("17850", "online_retail", "France")


def test_json_lines_isolate_the_broken_line_and_keep_ids_under_any_batch_size(project, tmp_path):
    path = as_jsonl(tmp_path / "x.jsonl", GOOD * 20)
    lines = path.read_text().splitlines()
    lines[7] = '{"user": "u1", "item'
    lines[30] = "[1, 2]"
    path.write_text("\n".join(lines) + "\n")
    first = project.ingest(path, ingest__map=MAP, ingest__batch_rows=7)
    assert (first["accepted"], first["quarantined"]) == (58, {"bad_json": 2})
    assert project.ingest(path, ingest__map=MAP, ingest__batch_rows=1000)["accepted"] == 0
    assert sorted(row["raw"] for row in project.quarantine())[-1] == b'{"user": "u1", "item'


def test_mixed_types_nested_values_and_late_columns_in_json_lines(project, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"user": 1, "item": "a", "at": 1577836800, "tags": ["x", "y"]}\n'
        '{"user": "two", "item": 7, "at": "2020-01-01T00:00:00Z", "more": {"deep": null}}\n'
    )
    assert project.ingest(path, ingest__map=MAP)["accepted"] == 2
    rows = project.events(["subject", "object", "event_time", "props"])
    assert [row["subject"] for row in rows] == ["1", "two"] and rows[0]["event_time"] == rows[1]["event_time"]
    assert json.loads(json.loads(rows[0]["props"])["tags"]) == ["x", "y"]


@pytest.mark.parametrize("packed", [False, True])
def test_old_exports_in_latin_1_and_packed_files_are_read(project, tmp_path, packed):
    body = "user;item;at\nJürgen;i1;2020-01-01\n".encode("utf-8" if packed else "latin-1")
    path = tmp_path / ("x.csv.gz" if packed else "x.csv")
    path.write_bytes(gzip.compress(body) if packed else body)
    project.ingest(path, ingest__map=MAP)
    assert project.events(["subject"]) == [{"subject": "Jürgen"}]


def test_ids_of_the_source_are_kept(project, tmp_path):
    path = write_csv(tmp_path / "x.csv", [("u1", "i1", "2020-01-01", "e7"), ("u1", "i2", "2020-01-01", "e7")])
    summary = project.ingest(path, ingest__map={**MAP, "event_id": "stars"})
    assert (summary["accepted"], summary["duplicate"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "body", "what"),
    [
        ("none.csv", None, "there is no file"),
        ("empty.csv", b"", "is empty"),
        ("header.csv", b"user,item,at\n", None),
        ("x.xlsx", b"PK", "of no known kind"),
        ("broken.parquet", b"PAR1 and then nothing", "cannot be read as parquet"),
    ],
)
def test_files_that_cannot_be_used_are_named(project, tmp_path, name, body, what):
    path = tmp_path / name
    if body is not None:
        path.write_bytes(body)
    if what is None:
        assert project.ingest(path, ingest__map=MAP)["accepted"] == 0
        return
    with pytest.raises(InputError) as caught:
        project.ingest(path, ingest__map=MAP)
    assert what in caught.value.what and caught.value.hint


def test_a_truncated_parquet_keeps_the_lake_readable_and_the_mended_file_completes(project, tmp_path, retail):
    path = tmp_path / "x.parquet"
    path.write_bytes(retail.read_bytes()[:1_000_000])
    with pytest.raises(InputError, match="cannot be read as parquet"):
        project.ingest(path)
    path.write_bytes(retail.read_bytes())
    assert project.ingest(path)["accepted"] == 541_909


def test_a_column_that_is_not_there_is_named_with_the_nearest(project, tmp_path):
    with pytest.raises(InputError) as caught:
        project.ingest(write_csv(tmp_path / "x.csv"), ingest__map={**MAP, "subject": "usr"})
    assert "did you mean `user`?" in caught.value.hint


def counted(summary):
    return summary["accepted"], summary["duplicate"], summary["quarantined"]


def test_a_block_of_rows_of_the_wrong_length_is_counted_to_the_last(project, tmp_path):
    """600,000 lines of which one 4 MB block and every 13th are bad."""
    good = bad = 0
    with open(tmp_path / "x.csv", "w") as file:
        file.write("user,item,at\n")
        for row in range(600_000):
            is_bad = row % 13 == 0 or 250_000 <= row < 400_000
            file.write(
                f"u{row},i{row % 7},2020-01-01T00:00:00,extra{row}\n" if is_bad else f"u{row},i{row % 7},2020-01-01T00:00:00\n"
            )
            good, bad = good + (not is_bad), bad + is_bad
    assert counted(project.ingest(tmp_path / "x.csv", ingest__map=MAP)) == (good, 0, {"wrong_number_of_columns:4": bad})
    raw = {row["raw"].rpartition(b"extra")[2] for row in project.quarantine()}
    assert len(raw) == bad


def test_reading_again_adds_nothing_to_quarantine_whatever_the_batches(project, tmp_path):
    rows = [*GOOD, ("u", "i", "never", 1), ("u", "i", "2020-01-01", 1, "more"), ("u", "i", "2020-01-01", 1, "more", 2)] * 5
    path = write_csv(tmp_path / "x.csv", rows)
    first = project.ingest(path, ingest__map=MAP)
    assert sum(first["quarantined"].values()) == 15 and first["accepted"] == 15
    for batch_rows in (1, 4, 1000):
        assert counted(project.ingest(path, ingest__map=MAP, ingest__batch_rows=batch_rows)) == (0, 30, {})
    assert len(project.quarantine()) == 15


@pytest.mark.parametrize("where", [0, 3, 199_999])
def test_a_stray_quote_costs_at_most_its_row(project, tmp_path, where):
    with open(tmp_path / "x.csv", "w") as file:
        file.write("user,item,at,title\n")
        for row in range(200_000):
            title = '"open' if row == where else f'"a {row}, quoted\nover lines"' if row % 50_000 == 7 else "plain"
            file.write(f"u{row},i{row % 9},2020-01-01,{title}\n")
    assert counted(project.ingest(tmp_path / "x.csv", ingest__map=MAP)) == (200_000, 0, {})
    props = [json.loads(row["props"])["title"] for row in project.events(["props"])]
    assert (
        props[where] == ('"open' if where < 199_999 else "open\n")
        and props[50_007] == "a 50007, quoted\nover lines"
        and props[8] == "plain"
    )


def test_a_quote_inside_a_field_and_a_line_longer_than_a_block_are_read(project, tmp_path):
    long = "x" * 5_000_000
    (tmp_path / "x.csv").write_text(
        f'user,item,at,title\nu,i,2020-01-01,5" pipe\nv,j,2020-01-02,{long}\nw,k,2020-01-03,"q""q"\n'
    )
    assert counted(project.ingest(tmp_path / "x.csv", ingest__map=MAP)) == (3, 0, {})
    titles = [json.loads(row["props"])["title"] for row in project.events(["props"])]
    assert titles == ['5" pipe', long, 'q"q']


FIELDS = st.text(st.sampled_from('ab", \n;é'), max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1, max_size=30))
def test_the_careful_reader_gives_what_the_fast_one_gives(tmp_path_factory, rows):
    """Python's csv writer is the oracle for what a file means."""
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("a", "b", "c"), *rows])
    how = delimited.Dialect(["a", "b", "c"], ",", "utf-8")
    expected = [tuple(None if field in delimited.NULLS else field for field in row) for row in rows]

    def opened():
        return open(path, "rb")

    for read in (delimited._fast(opened, how), delimited._careful(opened, how, 0, 0)):
        parts = [(delimited._decoded(batch, "utf-8", 0)[0], bad) for batch, bad in read]
        assert not any(bad for _, bad in parts)
        assert [tuple(row.values()) for batch, _ in parts for row in batch.to_pylist()] == expected


def test_one_broken_byte_costs_its_row_and_old_exports_are_still_told_apart(project, tmp_path):
    lines = [f"Jürgen{row},i,2020-01-01".encode() for row in range(50)]
    lines[20] = b"J\xfcrgen20,i,2020-01-01"
    (tmp_path / "x.csv").write_bytes(b"\n".join([b"user,item,at", *lines]) + b"\n")
    assert counted(project.ingest(tmp_path / "x.csv", ingest__map=MAP)) == (49, 0, {"bad_encoding": 1})
    assert {row["subject"][:6] for row in project.events(["subject"])} == {"Jürgen"}
    old = tmp_path / "old.csv.gz"
    old.write_bytes(gzip.compress("user,item,at\nMüller,5 €,2020-01-01\n".encode("cp1252")))
    project.ingest(old, ingest__map=MAP)
    assert project.events(["subject", "object"])[-1] == {"subject": "Müller", "object": "5 €"}


def test_a_cut_packed_file_fails_before_a_row_and_the_whole_one_is_read_once(project, tmp_path):
    path = tmp_path / "x.csv.gz"
    whole = gzip.compress(("user,item,at\n" + "".join(f"u{row},i,2020-01-01\n" for row in range(300_000))).encode())
    path.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(InputError, match="cannot be read"):
        project.ingest(path, ingest__map=MAP)
    path.write_bytes(whole)
    assert counted(project.ingest(path, ingest__map=MAP)) == (300_000, 0, {})


@pytest.mark.parametrize(
    ("name", "body", "what"),
    [
        ("x.csv", "user,item,at\nu,i,2020-01-01\n".encode("utf-16"), "is UTF-16"),
        ("x.json", b'[{"user": "u"}]', "is one JSON array"),
        ("http://example.com/x.csv", None, "is not a file"),
        ("bad.csv", b"user,item,at\nu,i,never\n", "no row of `bad` is a usable event"),
    ],
)
def test_what_cannot_be_read_yet_is_told_with_the_way_round(project, tmp_path, name, body, what):
    path = name if "://" in name else tmp_path / name
    if body is not None:
        path.write_bytes(body)
    with pytest.raises(InputError) as caught:
        project.ingest(path, ingest__map=MAP)
    assert what in caught.value.what and caught.value.hint


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("UP.CSV", b"user,item,at\nu,i,2020-01-01\n"),
        ("bom.csv", b"\xef\xbb\xbfuser,item,at\nu,i,2020-01-01\n"),
        ("spaces.csv", b" user , item ,at\nu,i,2020-01-01\n"),
        ("blank.csv", b"\n\nuser,item,at\nu,i,2020-01-01\n"),
        ("mac.csv", b"user,item,at\ru,i,2020-01-01\r"),
        ("nameless.csv", b",user,item,at\n0,u,i,2020-01-01\n"),
        ("twice.csv", b"user,item,at,at\nu,i,2020-01-01,x\n"),
        ("bom.jsonl", b'\xef\xbb\xbf{"user": "u", "item": "i", "at": "2020-01-01"}\n'),
        ("nameless.jsonl", b'{"": 1, "user": "u", "item": "i", "at": "2020-01-01"}\n'),
    ],
)
def test_files_as_they_come(project, tmp_path, name, body):
    (tmp_path / name).write_bytes(body)
    assert counted(project.ingest(tmp_path / name, ingest__map=MAP)) == (1, 0, {})
    assert (row := project.events()[0])["subject"] == "u" and row["object"] == "i" and row["event_time"].year == 2020
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / name).write_bytes(body.replace(b"u,i,", b"u,j,").replace(b'"i"', b'"j"'))
    assert project.ingest(tmp_path / "again" / name, ingest__map=MAP)["accepted"] == 1  # another file, another id


def test_parquet_of_every_type_is_read(project, tmp_path):
    moment = 1_600_000_000_123_456_789
    table = pa.table(
        {
            "user": pa.array(["u"], pa.string_view()), "item": pa.array([1e19]), "at": pa.array([moment], pa.timestamp("ns")),
            "tags": pa.array([["a", "b"]]), "deep": pa.array([{"x": [1]}]), "raw": pa.array([b"\xff\x00"]),
            "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "took": pa.array([5], pa.duration("ns")), "clock": pa.array([5_000], pa.time64("ns")),
            "price": pa.array([Decimal("1.00")]), "day": pa.array([1]).cast(pa.int32()).cast(pa.date32()),
            "kind2": pa.array(["k"]).dictionary_encode(),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    assert counted(project.ingest(tmp_path / "x.parquet", ingest__map=MAP)) == (1, 0, {})
    row = project.events()[0]
    props = json.loads(row["props"])
    assert (row["subject"], row["object"], row["event_time"].microsecond) == ("u", "1e+19", 123_456)
    assert (props["tags"], props["deep"], props["kind2"], props["price"]) == (["a", "b"], {"x": [1]}, "k", "1.00")


def test_names_too_long_for_any_room_are_quarantined(project, tmp_path):
    rows = [*GOOD, ("u" * 1025, "i", "2020-01-01", 1), ("u" * 1024, "i" * 2000, "2020-01-01", 1)]
    summary = project.ingest(write_csv(tmp_path / "x.csv", rows), ingest__map=MAP)
    assert counted(summary) == (3, 0, {"too_long:subject": 1, "too_long:object": 1})


def test_a_corrected_map_is_refused_where_it_could_take_no_effect(project, tmp_path):
    path = write_csv(tmp_path / "x.csv")
    project.ingest(path, ingest__map={**MAP, "subject": "item", "object": "user"})
    with pytest.raises(InputError, match="with another map or layout") as caught:
        project.ingest(path, ingest__map=MAP)
    assert "--root NEW" in caught.value.hint and len(project.events()) == 3


def test_a_log_that_was_removed_hides_nothing_that_comes_later(project, tmp_path):
    project.ingest(write_csv(tmp_path / "x.csv"), ingest__map=MAP)
    shutil.rmtree(project.lake.log_folder)
    other = write_csv(tmp_path / "y.csv", [("v", "j", "2021-01-01", 1)])
    assert project.ingest(other, ingest__map=MAP)["accepted"] == 1


def test_a_log_put_back_from_an_older_copy_is_refused_until_it_is_removed(project, tmp_path):
    project.ingest(write_csv(tmp_path / "x.csv"), ingest__map=MAP)
    shutil.copytree(project.lake.log_folder, tmp_path / "older")
    project.ingest(write_csv(tmp_path / "y.csv", [("v", "j", "2021-01-01", 1)]), ingest__map=MAP)
    shutil.rmtree(project.lake.log_folder)
    shutil.copytree(tmp_path / "older", project.lake.log_folder)
    third = write_csv(tmp_path / "z.csv", [("w", "k", "2021-01-01", 1)])
    with pytest.raises(LakeError, match="the log is older than the lake"):
        project.ingest(third, ingest__map=MAP)
    for path in project.lake.log_folder.iterdir():
        shutil.rmtree(path)
    assert project.ingest(third, ingest__map=MAP)["accepted"] == 1 and len(project.events()) == 5


@pytest.mark.parametrize("damage", ["remove", "truncate", "garbage"])
def test_a_damaged_lake_is_told_by_every_verb_and_by_doctor(project, tmp_path, damage):
    project.ingest(write_csv(tmp_path / "x.csv"), ingest__map=MAP)
    for path in (project.lake.folder / "events" / "data").iterdir():
        {"remove": path.unlink, "truncate": lambda path=path: path.write_bytes(b""),
         "garbage": lambda path=path: path.write_bytes(b"garbage" * 100)}[damage]()  # fmt: skip
    with pytest.raises(LakeError, match="cannot be read"):
        project.curate()
    with pytest.raises(LakeError, match="cannot be read"):
        project.ingest(write_csv(tmp_path / "y.csv", [("v", "j", "2021-01-01", 1)]), ingest__map=MAP)
    found = {each.check: each for each in examine(project.root)}
    assert found["lake"].state == "bad" and "cannot be read" in found["lake"].found and found["lake"].hint


def sliced(tmp_path, subjects, times, num_slices):
    path = tmp_path / "x.csv"
    table = pa.table(
        {"user": pa.array(subjects), "item": pa.array([f"i{row}" for row in range(len(times))]), "at": pa.array(times)}
    )
    pacsv.write_csv(table, path)
    config = configs.load(tmp_path, [], {"ingest.source": str(path), "ingest.map": MAP, "on": "local://threads=1"})
    source = open_source(str(path), tmp_path, print)
    return cut(source, layout_of(source, config), config, num_slices)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=60), st.integers(2, 6))
def test_slices_keep_groups_whole_and_lose_nothing(tmp_path_factory, rows, num_slices):
    subjects, times = [f"u{subject}" for subject, _ in rows], [1_600_000_000 + time for _, time in rows]
    groups = Counter(zip(subjects, times, strict=True))
    folder = tmp_path_factory.mktemp("slices")
    if len(groups) < num_slices:
        with pytest.raises(InputError, match="cannot be cut"):
            sliced(folder, subjects, times, num_slices)
        return
    slices = sliced(folder, subjects, times, num_slices)
    assert len(slices) == num_slices and all(part.events.num_rows for part in slices)
    tables = pa.concat_tables([part.events for part in slices])
    assert sorted(tables["object"].to_pylist()) == sorted(f"i{row}" for row in range(len(rows)))
    when = tables["event_time"].cast(pa.int64()).to_numpy()
    assert (np.diff(when) >= 0).all()
    where = {}
    for number, part in enumerate(slices):
        for key in zip(part.events["subject"].to_pylist(), part.events["event_time"].to_pylist(), strict=True):
            assert where.setdefault(key, number) == number
    biggest = max(groups.values())
    if biggest * num_slices * 2 < len(rows):
        counts = [part.events.num_rows for part in slices]
        assert max(counts) - min(counts) <= 2 * biggest + 1


def test_the_bundled_purchases_are_cut_into_equal_slices(retail, tmp_path):
    config = configs.load(tmp_path, [], {"ingest.source": str(retail)})
    source = open_source(str(retail), tmp_path, print)
    slices = cut(source, layout_of(source, config), config, 7)
    counts = [part.events.num_rows for part in slices]
    assert sum(counts) == 541_909 and max(counts) - min(counts) < 300
    assert slices[0].events.schema.equals(EVENT)


KILL_POINTS = ["log.append", "lake.write", "lake.commit", "log.trim"]


@pytest.mark.parametrize("point", KILL_POINTS)
def test_kill_9_anywhere_in_ingest_loses_and_doubles_nothing(project, tmp_path, point):
    """The process dies right after its second append, write, commit or trim; the same command completes."""
    path = write_csv(tmp_path / "x.csv", [(f"u{row}", f"i{row}", 1_600_000_000 + row, 1) for row in range(1000)])
    code = f"""
import os, signal, sys, pathlib
from gyral import config as configs
from gyral.doctor import examine
from gyral.run import Run
from gyral.ingest import files
from gyral.lake import commit
from gyral.log.sqlite import SqliteLog
import lance
calls = 0
def dying(real):
    def call(*args, **kwargs):
        global calls
        result = real(*args, **kwargs)
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
point = {point!r}
if point == "log.append": SqliteLog.append = dying(SqliteLog.append)
if point == "lake.write": commit.write_fragments = dying(commit.write_fragments)
if point == "lake.commit": lance.LanceDataset.commit = staticmethod(dying(lance.LanceDataset.commit))
if point == "log.trim": SqliteLog.trim = dying(SqliteLog.trim)
root = pathlib.Path(sys.argv[1])
config = configs.load(root, [], {{"ingest.source": sys.argv[2], "ingest.map": {MAP!r}, "ingest.batch_rows": 100,
    "ingest.commit_rows": 200, "on": "local://threads=1"}})
with Run.start(root, "ingest", config) as run:
    files.ingest(root, config, run)
    files.ingest(root, config, run)
"""
    done = subprocess.run([sys.executable, "-c", code, str(project.root), str(path)], env=os.environ, timeout=120)
    assert done.returncode == -signal.SIGKILL
    project.ingest(path, ingest__map=MAP)
    ids = [row["event_id"] for row in project.events(["event_id"])]
    assert len(ids) == len(set(ids)) == 1000
    with SqliteLog(project.lake.log_folder) as log:
        assert [entry for name in log.partitions() for entry in log.read(name, log.start(name))] == []
