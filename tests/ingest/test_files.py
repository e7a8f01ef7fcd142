"""Files of every kind, with every kind of dirt, through the log into the lake."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral import config as configs
from gyral.errors import InputError
from gyral.event.schema import EVENT
from gyral.ingest.files import cut, layout_of
from gyral.ingest.sources import open_source
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


def sliced(tmp_path, subjects, times, num_slices):
    path = tmp_path / "x.csv"
    table = pa.table(
        {"user": pa.array(subjects), "item": pa.array([f"i{row}" for row in range(len(times))]), "at": pa.array(times)}
    )
    pacsv.write_csv(table, path)
    config = configs.load(tmp_path, [], {"ingest.source": str(path), "ingest.map": MAP, "on": "local://threads=1"})
    source = open_source(str(path), tmp_path)
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
    source = open_source(str(retail), tmp_path)
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
        assert list(log.read("ingest-0", 0)) == []
