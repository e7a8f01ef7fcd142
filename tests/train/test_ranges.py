"""The ledger of a live stream: torn anywhere, written by whoever has the lock, and damage is told."""

import json
import os
import zlib

import pytest

from gyral.errors import InputError
from gyral.train.ranges import FILE, Begin, End, Range, Ranges, taken_over


def a_range(number):
    offsets = {"a": number}, {"a": number + 1}
    return Range(number, *offsets, 7 + number, 3, 2, 1, 100 * (number + 1), 12 * (number + 1), "ab" * 16)


def written(folder, num, end=None):
    ranges = Ranges(folder)
    with ranges.alone() as is_ours:
        assert is_ours
        ranges.write(Begin("lake:", {"b": 4}))
        for number in range(num):
            ranges.write(a_range(number))
        if end is not None:
            ranges.write(end)
    return ranges


def test_lines_are_read_as_they_were_written_and_carry_their_sum(tmp_path):
    written(tmp_path, 2, End(5, 3, "idle"))
    found = Ranges(tmp_path)
    assert found.ranges == [a_range(0), a_range(1)] and found.end == End(5, 3, "idle")
    assert found.begin == Begin("lake:", {"b": 4}) and found.until() == {"a": 2, "b": 4} and found.examples == 24
    for line in (tmp_path / FILE).read_bytes().splitlines():
        told = json.loads(line)
        body, _, _ = line.rpartition(b',"crc"')
        assert int(told["crc"], 16) == zlib.crc32(body)
    assert [json.loads(line)["type"] for line in (tmp_path / FILE).read_text().splitlines()] == [
        "begin",
        "range",
        "range",
        "end",
    ]


def test_a_last_line_that_is_torn_anywhere_counts_for_nobody_and_is_cut_off(tmp_path):
    written(tmp_path, 2)
    whole = (tmp_path / FILE).read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(whole)):
        (tmp_path / FILE).write_bytes(whole[:end])
        found = Ranges(tmp_path)
        assert found.ranges == [a_range(0)]
        with found.alone() as is_ours:
            assert is_ours and (tmp_path / FILE).stat().st_size == start
            found.write(a_range(1))
        assert (tmp_path / FILE).read_bytes() == whole and Ranges(tmp_path).ranges == found.ranges


def test_zeros_of_a_power_cut_are_torn_too_and_damage_before_the_end_is_told(tmp_path):
    written(tmp_path, 2)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(64))
    with (found := Ranges(tmp_path)).alone():
        assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"tokens":100', b'"tokens":900'))
    with pytest.raises(InputError) as caught:
        Ranges(tmp_path)
    assert "is damaged" in str(caught.value) and str(path) in str(caught.value)
    assert found.examples == 24


def test_one_writes_and_others_read_what_came_since(tmp_path):
    mine = written(tmp_path, 1)
    other = Ranges(tmp_path)
    with mine.alone() as is_ours, other.alone() as is_theirs:
        assert is_ours and not is_theirs
        mine.write(a_range(1))
        assert other.read() and other.ranges == mine.ranges and not other.read()
    with other.alone() as is_theirs:
        assert is_theirs
    # Half of a line that is being written is not read, and is read when it is whole.
    line = (tmp_path / FILE).read_bytes().splitlines(keepends=True)[-1]
    with open(tmp_path / FILE, "ab", buffering=0) as file:
        file.write(line[:20])
        assert not other.read()
        file.write(line[20:])
        assert other.read() and len(other.ranges) == 3


def test_a_run_that_goes_on_takes_over_all_ranges_and_not_the_end(tmp_path):
    assert taken_over(tmp_path) == b""
    written(tmp_path, 2, End(5, 3, "idle"))
    with open(tmp_path / FILE, "ab") as file:
        file.write(b'{"type":"ran')
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / FILE).write_bytes(taken_over(tmp_path))
    found = Ranges(tmp_path / "next")
    assert found.ranges == [a_range(0), a_range(1)] and found.end is None and found.begin is not None
    assert os.listdir(tmp_path / "next") == [FILE]
