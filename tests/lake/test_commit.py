import gc
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from gyral.errors import ConflictError, NotFound
from gyral.event.codec import encode_payload
from gyral.event.schema import EVENT, TABLES
from gyral.ingest.drain import Drain
from gyral.lake.commit import LakeError
from gyral.lake.table import Lake
from gyral.log.sqlite import SqliteLog


def rows(first, count, offset=0):
    return pa.Table.from_pylist(
        [
            {"event_id": f"e{first + number}", "ingest_time": 0, "reason": "x", "raw": b"r", "src_partition": "p",
             "src_offset": offset, "src_index": number}
            for number in range(count)
        ],
        schema=TABLES["quarantine"],
    )  # fmt: skip


def ids(snapshot):
    return snapshot.read(["event_id"])["event_id"].to_pylist()


def test_rows_and_offsets_arrive_in_one_version(tmp_path):
    empty = Lake(tmp_path).open("quarantine")
    after = empty.commit(rows(0, 3), {"p": 1})
    assert after.version == empty.version + 1
    assert ids(after) == ["e0", "e1", "e2"] and after.offsets == {"p": 1}
    more = after.commit(rows(3, 2), {"q": 5})
    assert more.offsets == {"p": 1, "q": 5} and ids(more) == [f"e{number}" for number in range(5)]
    assert ids(Lake(tmp_path).snapshot("quarantine", after.version)) == ["e0", "e1", "e2"]


def test_the_second_of_two_who_planned_the_same_offsets_is_refused(tmp_path):
    lake = Lake(tmp_path)
    one, two = lake.open("quarantine"), lake.open("quarantine")
    one.commit(rows(0, 3), {"p": 1})
    with pytest.raises(ConflictError):
        two.commit(rows(0, 3), {"p": 1})
    assert ids(lake.snapshot("quarantine")) == ["e0", "e1", "e2"]


def test_a_commit_planned_before_a_compaction_is_refused(tmp_path):
    lake = Lake(tmp_path)
    lake.open("quarantine").commit(rows(0, 1), {"p": 1}).commit(rows(1, 1), {"p": 2})
    planned = lake.snapshot("quarantine")
    merged = planned.compact()
    assert ids(merged) == ["e0", "e1"] and merged.version > planned.version and planned.compact() is planned
    assert lake.snapshot("quarantine").num_fragments == 1 and lake.snapshot("quarantine").offsets == {"p": 2}
    with pytest.raises(ConflictError):
        planned.commit(rows(2, 1), {"p": 3})
    assert ids(lake.snapshot("quarantine")) == ["e0", "e1"]


def test_offsets_never_go_back(tmp_path):
    after = Lake(tmp_path).open("quarantine").commit(rows(0, 1), {"p": 4})
    with pytest.raises(LakeError, match="go back"):
        after.commit(rows(1, 1), {"p": 3})


def test_only_offsets_may_advance(tmp_path):
    after = Lake(tmp_path).open("quarantine").commit(None, {"p": 9})
    assert after.count() == 0 and after.offsets == {"p": 9}


def test_racing_processes_lose_and_double_nothing(tmp_path):
    Lake(tmp_path).open("quarantine")
    code = (
        "import sys, pathlib\nsys.path.insert(0, sys.argv[2])\nfrom test_commit import rows\n"
        "from gyral.lake.table import Lake\nfrom gyral.errors import ConflictError\nwon = 0\n"
        "lake = Lake(pathlib.Path(sys.argv[1]))\n"
        "while won < 12:\n    snapshot = lake.open('quarantine')\n    offset = snapshot.offsets.get('p', 0)\n"
        "    try:\n        snapshot.commit(rows(10 * offset, 10, offset), {'p': offset + 1})\n        won += 1\n"
        "    except ConflictError:\n        pass\n"
    )
    here = __file__.rpartition("/")[0]
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), here]) for _ in range(3)]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    final = Lake(tmp_path).snapshot("quarantine")
    assert final.offsets == {"p": 36}
    assert sorted(ids(final), key=lambda name: int(name[1:])) == [f"e{number}" for number in range(360)]


def test_a_table_made_by_many_at_once_is_one_table_that_keeps_what_each_commits(tmp_path):
    def work(lake, start, number, errors):
        try:
            start.wait()
            snapshot = lake.open("quarantine")
            while True:
                try:
                    return snapshot.commit(rows(number, 1, number), {f"p{number}": 1})
                except ConflictError:
                    snapshot = lake.open("quarantine")
        except Exception as error:
            errors.append(error)

    for attempt in range(40):
        lake, start, errors = Lake(tmp_path / str(attempt)), threading.Barrier(4), []
        threads = [threading.Thread(target=work, args=(lake, start, number, errors)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert sorted(ids(lake.snapshot("quarantine"))) == ["e0", "e1", "e2", "e3"]
        assert lake.snapshot("quarantine").version == 5
        assert [path.name for path in lake.folder.iterdir()] == ["quarantine"]


def test_a_table_is_not_there_before_it_can_be_read(tmp_path, monkeypatch):
    lake = Lake(tmp_path)
    make = lance.write_dataset

    def slow(*args, **kwargs):
        made = make(*args, **kwargs)
        assert not lake.exists("quarantine")
        lake.folder.joinpath("quarantine").mkdir(exist_ok=True)  # an empty folder left by somebody else is in nobody's way
        return made

    monkeypatch.setattr(lance, "write_dataset", slow)
    assert lake.open("quarantine").count() == 0 and lake.exists("quarantine")


def test_everything_a_commit_wrote_was_flushed_before_it_returned(tmp_path, monkeypatch):
    flushed = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.add(os.fstat(fd).st_ino), real(fd))[1])
    monkeypatch.setattr(time, "time", lambda: 2e9)  # a clock that jumps changes nothing
    Lake(tmp_path).open("quarantine").commit(rows(0, 3), {"p": 1}).pin("x")
    made = {path for path in tmp_path.rglob("*") if "latest_version_hint" not in path.name}
    assert {path for path in made if path.stat().st_ino not in flushed} == set()


def test_what_somebody_else_committed_is_flushed_before_the_log_may_forget_it(tmp_path, monkeypatch):
    lake = Lake(tmp_path)
    for name in TABLES:
        lake.open(name)
    child = (  # killed after the commit and before its flush
        "import os, signal, sys, pathlib\nsys.path.insert(0, sys.argv[2])\nfrom test_commit import rows\n"
        "from gyral.lake import commit\nfrom gyral.lake.table import Lake\nimport lance\nreal = lance.LanceDataset.commit\n"
        "def dying(*args, **kwargs):\n    real(*args, **kwargs)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "lance.LanceDataset.commit = staticmethod(dying)\n"
        "Lake(pathlib.Path(sys.argv[1])).open('quarantine').commit(rows(0, 3), {'p': 1})\n"
    )
    here = __file__.rpartition("/")[0]
    assert subprocess.run([sys.executable, "-c", child, str(tmp_path), here]).returncode == -9
    flushed = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.add(os.fstat(fd).st_ino), real(fd))[1])
    assert lake.settled() == {"p": 0}  # `events` has nothing of it yet
    newest = min((tmp_path / "lake/quarantine/_versions").glob("*.manifest"))
    data = list((tmp_path / "lake/quarantine/data").iterdir())
    folders = [path for path in (tmp_path / "lake/quarantine").iterdir() if path.is_dir()]
    assert {path.stat().st_ino for path in [newest, *data, newest.parent, newest.parent.parent]} <= flushed
    assert len(folders) == 3 and len(data) == 1
    flushed.clear()
    lake.settled()
    assert data[0].stat().st_ino not in flushed  # once is enough


def test_rows_are_on_the_disk_before_the_version_that_names_them_and_the_log_forgets_last(tmp_path, monkeypatch):
    """The order of every fsync, of Lance's commit and of the trim, as they happen."""
    lake, order = Lake(tmp_path), []
    for name in TABLES:
        lake.open(name)
    fsync, commit, trim = os.fsync, lance.LanceDataset.commit, SqliteLog.trim

    def spy_fsync(fd):
        order.append(Path(f"/proc/self/fd/{fd}").resolve().parent.name + "/" + Path(f"/proc/self/fd/{fd}").resolve().suffix)
        fsync(fd)

    def spy(name, real):
        return lambda *args, **kwargs: (order.append(name), real(*args, **kwargs))[1]

    with SqliteLog(lake.log_folder) as log:
        event = {"event_id": "a", "event_time": 1, "ingest_time": 2, "kind": "click"}
        log.append("p", "1", encode_payload(pa.RecordBatch.from_pylist([event], schema=EVENT)), 1)
        monkeypatch.setattr(os, "fsync", spy_fsync)
        monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(spy("commit", commit)))
        monkeypatch.setattr(SqliteLog, "trim", spy("trim", trim))
        Drain(lake, log, 100).run()
    at = order.index("commit")
    assert "data/.lance" in order[:at] and "events/" in order[:at]  # the file, then the folder that names it
    assert "_versions/.manifest" not in order[:at] and "_transactions/.txn" not in order[:at]
    last = order.index("trim")
    for flushed in ("_versions/.manifest", "_transactions/.txn"):
        assert flushed in order[at:last]
    assert order.count("trim") == 1


def test_the_log_may_forget_only_what_every_table_has(tmp_path):
    lake = Lake(tmp_path)
    lake.open("quarantine").commit(rows(0, 3), {"p": 5, "q": 2})
    lake.open("events").commit(None, {"p": 3})
    for name in ("schemas", "erasures"):
        lake.open(name).commit(None, {"p": 9, "q": 9})
    assert lake.settled() == {"p": 3, "q": 0}


def test_a_log_older_than_the_lake_is_refused(tmp_path):
    lake = Lake(tmp_path)
    with SqliteLog(lake.log_folder) as log:
        lake.check(log)
        for number in range(3):
            log.append("p", str(number), b"x", 1)
        lake.open("quarantine").commit(rows(0, 3), {"p": 3, "gone": 9})
        lake.check(log)
        lake.open("quarantine").commit(None, {"p": 4})
        with pytest.raises(LakeError, match="ends at 3, but `quarantine` has it up to 4"):
            lake.check(log)


def test_however_many_commits_fragments_stay_few_and_each_row_is_written_a_few_times(tmp_path, monkeypatch):
    monkeypatch.setattr("gyral.lake.snapshot.MAX_FRAGMENTS", 10)
    monkeypatch.setattr("gyral.lake.snapshot.MERGED_ROWS", 200)
    lake, written, most = Lake(tmp_path), 0, 0
    snapshot = lake.open("quarantine")
    for number in range(300):
        snapshot = snapshot.commit(rows(7 * number, 7), {"p": number + 1})
        before = {file.path for file in snapshot.files()}
        snapshot = lake.maintain("quarantine", snapshot)
        for fragment in lance.dataset(str(tmp_path / "lake/quarantine"), version=snapshot.version).get_fragments():
            if not before.issuperset(file.path for file in fragment.metadata.files):
                written += fragment.physical_rows
        most = max(most, snapshot.num_fragments)
    assert snapshot.count() == 2_100 and ids(snapshot) == [f"e{number}" for number in range(2_100)]
    assert most <= 10 + 10 + 2 and written <= 4 * 2_100
    snapshot = snapshot.compact()
    assert not snapshot.is_crowded()


@pytest.mark.parametrize("merged", [30, 60, 100, 1000])
def test_deleted_rows_leave_the_files_of_every_fragment_whatever_its_size(tmp_path, monkeypatch, merged):
    monkeypatch.setattr("gyral.lake.snapshot.MERGED_ROWS", merged)
    snapshot = Lake(tmp_path).open("quarantine")
    for number in range(10):
        snapshot = snapshot.commit(rows(50 * number, 50, number), {"p": number + 1})
    snapshot, count = snapshot.erase("event_id IN ('e3', 'e120', 'e333', 'e490')")
    after = snapshot.rewrite()
    fragments = lance.dataset(str(tmp_path / "lake/quarantine")).get_fragments()
    assert count == 4 and sum(fragment.num_deletions for fragment in fragments) == 0
    assert sum(fragment.physical_rows for fragment in fragments) == 496
    assert sorted(ids(after)) == sorted(f"e{number}" for number in range(500) if number not in (3, 120, 333, 490))


def test_old_versions_are_forgotten_but_not_pinned_or_young_ones(tmp_path, monkeypatch):
    lake = Lake(tmp_path)
    snapshot = lake.open("quarantine").commit(rows(0, 3), {"p": 1})
    snapshot.pin("dataset")
    pinned = snapshot.version
    monkeypatch.setattr("gyral.lake.table.MAX_VERSIONS", 10)
    for offset in range(2, 30):
        snapshot = lake.maintain("quarantine", snapshot.commit(None, {"p": offset}))
    assert len(snapshot._dataset.versions()) == 30  # all are young
    monkeypatch.setattr("gyral.lake.table.KEEP_VERSIONS_FOR", timedelta(0))
    monkeypatch.setattr("gyral.lake.table.CLEAN_EVERY_S", 0.0)
    lake = Lake(tmp_path)
    lake.maintain("quarantine", lake.snapshot("quarantine"))
    assert [each["version"] for each in lake.snapshot("quarantine")._dataset.versions()] == [pinned, 30]
    assert ids(lake.snapshot("quarantine", pinned)) == ["e0", "e1", "e2"]


def test_a_tag_never_moves(tmp_path):
    first = Lake(tmp_path).open("quarantine").commit(rows(0, 1), {"p": 1})
    first.pin("x")
    first.pin("x")
    with pytest.raises(ConflictError, match="keeps version 2, not 3"):
        first.commit(rows(1, 1), {"p": 2}).pin("x")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match="no table `events`"):
        Lake(tmp_path).snapshot("events")
    Lake(tmp_path).open("events")
    with pytest.raises(NotFound, match="no version 9"):
        Lake(tmp_path).snapshot("events", 9)


def test_a_damaged_manifest_is_a_clear_error(tmp_path):
    Lake(tmp_path).open("quarantine").commit(rows(0, 3), {"p": 1})
    newest = min((tmp_path / "lake/quarantine/_versions").glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:20])
    with pytest.raises(LakeError):
        Lake(tmp_path).snapshot("quarantine")


def test_the_overview_counts_without_reading_rows(tmp_path, monkeypatch):
    more = rows(3, 2).set_column(2, "reason", pa.array(["y", "x"]))
    Lake(tmp_path).open("quarantine").commit(rows(0, 3), {"p": 1}).commit(None, {"p": 2}).commit(more, {"p": 3}).compact()
    event = {"event_id": "a", "event_time": 1_000_000, "ingest_time": 0, "kind": "click", "src_partition": "p", "src_offset": 0}
    events = [{**event, "src_index": 0, "country": "fr"}, {**event, "event_id": "b", "src_index": 1, "event_time": 5}]
    Lake(tmp_path).open("events").commit(pa.Table.from_pylist(events, schema=TABLES["events"]), {"p": 1})
    monkeypatch.setattr(lance.LanceDataset, "scanner", None)
    tables = Lake(tmp_path).overview()["tables"]
    facts = tables["quarantine"]
    assert (facts["rows"], facts["offsets"], facts["reasons"]) == (5, {"p": 3}, {"x": 4, "y": 1}) and facts["bytes"] > 0
    assert (tables["events"]["kinds"], tables["events"]["countries"]) == ({"click": 2}, {"fr": 1})
    assert (tables["events"]["first_event"], tables["events"]["last_event"]) == (
        "1970-01-01T00:00:00.000005Z",
        "1970-01-01T00:00:01Z",
    )


def test_a_column_of_endless_values_is_counted_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("gyral.lake.facts.MAX_VALUES", 3)
    table = rows(0, 9).set_column(2, "reason", pa.array(list("aabcdefga")))
    snapshot = Lake(tmp_path).open("quarantine").commit(table, {"p": 1})
    assert snapshot.facts.counts["reason"] == {"a": 3, "b": 1, "c": 1, "…": 4}


def test_a_commit_leaves_no_classes_and_a_merge_gives_its_memory_back(tmp_path, monkeypatch):
    monkeypatch.setattr("gyral.lake.snapshot.MAX_FRAGMENTS", 8)
    lake, flushed, merges, classes = Lake(tmp_path), set(), [], []
    monkeypatch.setattr("gyral.lake.table.give_back", lambda: merges.append(number))
    for number in range(17):
        planned = lake.open("quarantine")
        lake.maintain("quarantine", planned.commit(rows(number, 1, number), {"p": number + 1})).make_durable(flushed)
        if number in (8, 15):
            gc.collect()
            classes.append(sum(issubclass(type(each), type) for each in gc.get_objects()))
    assert merges == [8, 16]
    assert classes[0] == classes[1]  # `DataFile.path` makes one for each name


def test_what_is_known_to_be_on_the_disk_is_what_the_newest_version_has(tmp_path):
    lake, flushed = Lake(tmp_path), set()
    snapshot = lake.open("quarantine")
    for number in range(3):
        snapshot = snapshot.commit(rows(number, 1, number), {"p": number + 1})
        snapshot.make_durable(flushed)
    assert len(flushed) == 3
    merged = snapshot.compact()
    merged.make_durable(flushed)
    assert flushed == {file.path for file in merged.files()} and len(flushed) == 1
