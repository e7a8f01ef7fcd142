"""Ranges of a live stream name the same rows whatever becomes of the table; judged by Lance alone, read without our code."""

import lance
import pytest

from gyral.errors import UsageError
from gyral.lake.arrivals import Arrivals, between, committed, newer
from gyral.lake.commit import LakeError


def texts_in(root, first, last):
    """Texts of a lake's documents in order of the log, from … to … of them."""
    rows = lance.dataset(str(root / "lake" / "events")).to_table().to_pylist()
    rows.sort(key=lambda row: (row["src_partition"], row["src_offset"], row["src_index"]))
    return [row["props"] for row in rows if row["kind"] == "document"][first:last]


def followed(lake, limit, app=""):
    """All ranges that there are now, as [(since, until, rows)]."""
    ranges, at = [], {}
    while (found := newer(lake, app, at, limit)) is not None:
        since = {name: at.get(name, 0) for name in found.until}
        ranges.append((since, found.until, found.rows))
        at |= found.until
    return ranges


def test_ranges_have_each_document_once_in_the_order_of_the_log(tmp_path, arrive):
    for number in range(6):
        lake = arrive(tmp_path, [f"text {number} {each}" for each in range(5)])
    ranges = followed(lake, 12)
    assert [rows.num_rows for _, _, rows in ranges] == [10, 10, 10]  # whole batches: 12 would be two and a half
    assert [text for _, _, rows in ranges for text in rows["props"].to_pylist()] == texts_in(tmp_path, 0, 30)
    assert ranges[0][0] == {"a": 0} and ranges[0][1] == {"a": 2} and ranges[2][1] == {"a": 6} == committed(lake)
    assert newer(lake, "", {"a": 6}, 12) is None
    assert [rows.num_rows for _, _, rows in followed(lake, 1)] == [5] * 6  # one batch at least


def test_a_partition_that_never_ends_holds_up_no_other(tmp_path, arrive):
    for number in range(4):
        arrive(tmp_path, [f"busy {number} {each}" for each in range(10)], partition="busy")
    lake = arrive(tmp_path, ["quiet"], partition="quiet")
    assert '"quiet"' in str(newer(lake, "", {}, 20).rows["props"].to_pylist())


def test_only_documents_of_the_source_that_is_named_count(tmp_path, arrive):
    arrive(tmp_path, ["of the wiki"])
    lake = arrive(tmp_path, ["of the press"], app="press")
    assert "of the press" in newer(lake, "press", {}, 9).rows["props"][0].as_py()
    assert newer(lake, "press", {"a": 2}, 9) is None and newer(lake, "nobody", {}, 9) is None


def test_a_range_has_the_same_rows_after_compaction_and_after_more_came(tmp_path, arrive):
    for number in range(5):
        lake = arrive(tmp_path, [f"text {number} {each}" for each in range(4)])
    before = followed(lake, 8)
    num_fragments = lake.snapshot("events").num_fragments
    assert lake.snapshot("events").compact().num_fragments < num_fragments
    arrive(tmp_path, ["and more"])
    for since, until, rows in before:
        assert between(lake, "", since, until).equals(rows)


def test_erased_rows_are_gone_and_an_older_lake_is_refused(tmp_path, arrive):
    arrive(tmp_path, ["hers"], subject="ann")
    lake = arrive(tmp_path, ["nobody's"])
    (since, until, rows), *_ = followed(lake, 9)
    assert rows.num_rows == 2
    lake.snapshot("events").erase("subject = 'ann'")
    assert [text for text in between(lake, "", since, until)["props"].to_pylist()] == texts_in(tmp_path, 0, 9)
    with pytest.raises(LakeError) as caught:
        between(lake, "", since, {"a": 3})
    assert "older than the stream" in str(caught.value) and "it has 2 batches, not 3" in str(caught.value)


def test_nothing_came_where_there_is_no_lake_yet_and_only_texts_can_be_followed(tmp_path):
    from gyral.lake.table import Lake

    assert newer(Lake(tmp_path), "", {}, 9) is None and committed(Lake(tmp_path)) == {}
    data = Arrivals(tmp_path, "lake:wiki")
    assert data.app == data.title == "wiki" and Arrivals(tmp_path, "lake:").title == "lake"
    assert data.require("text", "a language model") is data
    with pytest.raises(UsageError):
        data.require("pairs", "`vision`")
