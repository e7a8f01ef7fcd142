"""Quarantined rows through the front door again."""

import json
import shutil

import pytest

from gyral import config as configs
from gyral.errors import UsageError
from gyral.ingest.replay import replay
from gyral.lake.table import Lake
from gyral.run import Run


@pytest.fixture
def bad(tmp_path, world):
    """A lake with one good event and bad ones of several kinds."""
    it = world()
    good = {"event_id": "a", "event_time": 1_700_000_000_000, "kind": "k", "subject": "u"}
    rows = [
        good,
        {**good, "event_id": "b", "subject": 17850},
        {**good, "event_id": "c", "clicks": 3, "props": {"x": 1}},
        {"event_id": "d", "evnt_time": 1_700_000_000_000, "kind": "k", "subject": "u"},
        {"event_time": 1_700_000_000_000, "kind": "k", "subject": "u", "object": 1.0},
        {**good, "event_id": "e", "event_time": "never"},
    ]
    assert it.post(json.dumps(rows).encode(), idempotency_key="one")[0][0] == 200
    it.run_drain()
    it.close()
    return tmp_path


def again(root, where, mapping=None):
    config = configs.load(root, [], {"ingest.map": mapping or {}})
    with Run.start(root, "ingest", config) as run:
        return replay(root, config, run, where)


def events(root):
    rows = Lake(root).snapshot("events").read(["event_id", "subject", "object", "props", "event_time"]).to_pylist()
    return {row["event_id"]: row for row in rows}


def test_what_can_be_repaired_becomes_an_event_once(bad):
    told = again(bad, "true", {"event_time": "evnt_time"})
    assert (told["rows_in"], told["accepted"], told["still_bad"]) == (5, 4, {"bad_time": 1})
    there = events(bad)
    assert there["b"]["subject"] == "17850" and json.loads(there["c"]["props"]) == {"x": 1, "clicks": 3}
    assert there["d"]["event_time"] == there["a"]["event_time"]
    (other,) = (row for name, row in there.items() if name not in "abcd")
    assert other["object"] == "1" and len(other["event_id"]) == 32
    told = again(bad, "true", {"event_time": "evnt_time"})
    assert (told["accepted"], told["duplicate"]) == (0, 4) and len(events(bad)) == 5


def test_only_what_is_asked_for_is_replayed(bad):
    assert again(bad, "reason = 'bad_subject'")["accepted"] == 1
    assert sorted(events(bad)) == ["a", "b"]


def test_a_condition_that_cannot_be_read_is_told(bad):
    with pytest.raises(UsageError, match="cannot be read"):
        again(bad, "reson = 'x'")


def test_another_replay_with_the_same_run_number_is_not_taken_for_the_first(bad):
    """As when `runs` was removed, or when two projects share a lake."""
    assert again(bad, "reason = 'bad_subject'")["accepted"] == 1
    shutil.rmtree(bad / "runs")
    assert again(bad, "reason = 'unknown_field'", {"event_time": "evnt_time"})["accepted"] == 2
