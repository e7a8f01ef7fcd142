"""Runs move the sheet's line: by hand-made numbers whose answer is known."""

import json
import math
import os
import platform

import pytest

from gyral.plan.hindsight import hindsight, score
from gyral.plan.kinds import INGEST
from gyral.plan.past import Line, Point, Seen, at, foretold, seen

LINE = Line(1.0, 0.01, "s", 3.0)


def test_without_runs_the_sheet_is_told():
    told = at(LINE, 100, [], 0.1, "a sheet")
    assert (told.value, told.low, told.high, told.by) == (2.0, 2 / 3, 6.0, "sheet")


def test_one_run_of_twice_the_line_doubles_it_at_every_size():
    for size in (10, 100, 10_000):
        told = at(LINE, size, [Point(3, 100, 4.0)], 0.1, "")
        assert told.value == pytest.approx(2 * LINE.at(size)) and told.by == "calibrated" and "run 3" in told.why


def test_the_nearer_run_counts_more_and_far_sizes_are_less_sure():
    runs = [Point(1, 100, 4.0), Point(2, 10_000, 101.0)]  # twice the line, and on it
    near, far = at(LINE, 120, runs, 0.02, ""), at(LINE, 9_000, runs, 0.02, "")
    assert near.value / LINE.at(120) == pytest.approx(2, rel=0.02) and far.value / LINE.at(9_000) == pytest.approx(1, rel=0.02)
    one = [Point(1, 100, 4.0)]
    widths = [told.high / told.low for told in (at(LINE, size, one, 0.1, "") for size in (100, 1_000, 100_000))]
    assert widths == sorted(widths) and widths[0] < 1.5 < widths[2]


def test_runs_that_differ_widen_the_interval():
    same, apart = ([Point(1, 100, 4.0), Point(2, 100, took)] for took in (4.0, 8.0))
    narrow, wide = at(LINE, 100, same, 0.1, ""), at(LINE, 100, apart, 0.1, "")
    assert wide.high / wide.low > 1.5 * narrow.high / narrow.low


def test_the_sheet_may_be_one_more_run_that_is_known_to_its_factor():
    told = at(LINE, 100, [Point(1, 100, 4.0)], 0.15, "", is_sheet_run=True)
    known = 1 / 0.15**2, (1.2816 / math.log(3)) ** 2
    assert told.value == pytest.approx(2 * 2 ** (known[0] / sum(known)))
    wide = math.exp(1.2816 * math.sqrt(0.15**2 + 1 / sum(known)))
    assert told.interval == pytest.approx((told.value / wide, told.value * wide))


def test_a_run_that_was_kept_waiting_counts_less():
    quiet, crowded = (Seen(1, 1e6, {"time": clock, "processor": 6.0}).point("processor") for clock in (3.0, 42.0))
    assert (quiet.crowd, crowded.crowd) == (1.0, 7.0)  # several threads are no more than sure
    line = INGEST.lines["processor"]

    def told(*runs):
        return at(line, 1e6, runs, 0.15, "", is_sheet_run=True).value

    assert line.at(1e6) < told(crowded) < told(quiet)
    assert told(crowded, Point(2, 1e6, line.at(1e6))) < 1.15 * line.at(1e6)  # of two that differ the quiet one is believed
    assert Seen(1, 1e6, {"time": 42.0, "processor": 6.0, "memory": 1e9}).point("memory").crowd == 1.0


def write_run(root, number, rows, seconds, **fields):
    folder = root / "runs" / str(number)
    folder.mkdir(parents=True)
    told = {
        "run": number, "verb": "ingest", "status": "done", "started": "2026-01-01T00:00:00Z", "elapsed_s": seconds,
        "cpu_s": seconds, "peak_bytes": 400_000_000, "inputs": [{"kind": "source", "name": "f.parquet"}],
        "summary": {"rows_in": rows, "duplicate": 0},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
    }  # fmt: skip
    (folder / "lineage.json").write_text(json.dumps(told | fields))


def test_only_runs_of_this_machine_that_did_the_work_are_seen(tmp_path):
    write_run(tmp_path, 1, 1_000_000, 5.0)
    write_run(tmp_path, 2, 1_000_000, 9.0, status="failed")
    write_run(tmp_path, 3, 1_000_000, 9.0, parent=1)
    write_run(tmp_path, 4, 1_000_000, 9.0, machine={"cores": 1_000, "processor": platform.machine()})
    write_run(tmp_path, 5, 1_000_000, 9.0, summary={"rows_in": 1_000_000, "duplicate": 1_000_000})
    write_run(tmp_path, 6, 1_000_000, 9.0, verb="train")
    (tmp_path / "runs" / "7").mkdir()
    assert [(each.run, each.size) for each in seen(tmp_path, INGEST)] == [(1, 1_000_000.0)]
    assert foretold(INGEST, 1_000_000, seen(tmp_path, INGEST))["processor"].value == pytest.approx(5.0, rel=0.05)


def test_hindsight_tells_a_run_from_those_before_it_alone(tmp_path):
    for number, (rows, seconds) in enumerate([(1_000_000, 6.0), (1_000_000, 6.6), (1_000_000, 60.0)], 1):
        write_run(tmp_path, number, rows, seconds)
    found = {each.run: each for each in hindsight(tmp_path)}
    assert found[1].told["processor"].by == "sheet" and found[2].told["processor"].by == "calibrated"
    assert found[2].off("processor") == pytest.approx(6 / 6.6 - 1, abs=0.05) and found[2].is_inside("processor")
    assert not found[3].is_inside("processor")
    assert score(list(found.values()), "processor") == {
        "runs": 2, "median_off": pytest.approx(1 - found[3].told["processor"].value / 60), "inside": 0.5,
    }  # fmt: skip
