import subprocess
import sys
import threading

import lance
import pyarrow as pa
import pytest

from gyral.errors import ConflictError, NotFound
from gyral.event.schema import TABLES
from gyral.lake.commit import LakeError
from gyral.lake.table import Lake


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
    lake.compact("quarantine")
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
    import os

    flushed = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.add(os.path.realpath(f"/proc/self/fd/{fd}")), real(fd))[1])
    before = {str(path) for path in tmp_path.rglob("*")}
    Lake(tmp_path).open("quarantine").commit(rows(0, 3), {"p": 1})
    made = {str(path.resolve()) for path in tmp_path.rglob("*") if path.is_file()} - before
    unflushed = {path for path in made if path not in flushed and "latest_version_hint" not in path}
    assert unflushed == set()
    assert {str(path.resolve()) for path in (tmp_path / "lake/quarantine").iterdir() if path.is_dir()} <= flushed


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


def test_the_overview_counts(tmp_path):
    Lake(tmp_path).open("quarantine").commit(rows(0, 3), {"p": 1})
    facts = Lake(tmp_path).overview()["tables"]["quarantine"]
    assert (facts["rows"], facts["offsets"], facts["reasons"]) == (3, {"p": 1}, {"x": 3}) and facts["bytes"] > 0
