import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate import splits
from gyral.curate.interactions import KEPT
from gyral.curate.kept import Kept
from gyral.errors import ConfigError, InputError

DAY = 86_400_000_000
MAP = {"subject": "user", "object": "item", "time": "at", "kind": "kind"}


def kept_of(rows):
    columns = {name: pa.nulls(len(rows), KEPT.field(name).type) for name in KEPT.names}
    for at, name in enumerate(("subject", "object")):
        columns[name] = pa.array([row[at] for row in rows], pa.string())
    columns["event_time"] = pa.array([row[2] for row in rows], pa.int64()).cast(KEPT.field("event_time").type)
    return Kept(pa.table(columns, schema=KEPT), np.zeros(len(rows), dtype=np.int16), [""])


ROWS = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xyz"), st.integers(0, 40)), min_size=1, max_size=60)
WANTED = st.sampled_from(
    [{"test": "7d"}, {"valid": "3d", "test": "36h"}, {"test": 0.2}, {"valid": 0.1, "test": 0.3}, {"valid": "1w"}]
)


@given(ROWS, WANTED)
@settings(deadline=None, max_examples=200)
def test_no_part_knows_of_a_later_one_and_what_is_new_to_it_is_counted(rows, wanted):
    rows = sorted(((who, what, at * DAY // 2) for who, what, at in rows), key=lambda row: row[2])
    try:
        numbers, facts = splits.assign(kept_of(rows), wanted)
    except InputError:
        return
    names = splits.column(numbers).to_pylist()
    parts = [part for part in ("train", "valid", "test") if part in names]
    assert parts == [part for part in ("train", "valid", "test") if part == "train" or part in wanted] == list(facts)
    end = rows[-1][2]
    for before, part in zip(["", *parts], parts, strict=False):
        mine = [row for row, name in zip(rows, names, strict=True) if name == part]
        assert facts[part]["rows"] == len(mine)
        earlier = [row for row, name in zip(rows, names, strict=True) if parts.index(name) < parts.index(part)]
        assert all(row[2] < mine[0][2] for row in earlier)  # nothing of one time is cut apart
        for at, name in enumerate(("subjects", "objects")):
            there = {row[at] for row in mine}
            assert facts[part][name] == len(there)
            if before:
                assert facts[part][f"cold_{name}"] == len(there - {row[at] for row in earlier})
    for part in reversed(parts[1:]):
        size = wanted[part]
        mine = [row[2] for row, name in zip(rows, names, strict=True) if name == part]
        if isinstance(size, str):
            length = {"7d": 7 * DAY, "3d": 3 * DAY, "36h": 36 * DAY // 24, "1w": 7 * DAY}[size]
            assert mine == [row[2] for row in rows if end - length < row[2] <= end]
        else:
            wants = max(round(size * len(rows)), 1)
            assert len(mine) >= wants and len([at for at in mine if at > mine[0]]) < wants
        end = max((row[2] for row, name in zip(rows, names, strict=True) if parts.index(name) < parts.index(part)), default=0)


@pytest.mark.parametrize("split", [{"test": "7 days"}, {"test": "0d"}, {"valid": "d"}, {"valid": "-1d"}])
def test_a_length_that_is_none_is_refused_before_anything_is_read(project, split):
    with pytest.raises(ConfigError, match="is no length of time"):
        project.curate(curate__split=split)


@pytest.mark.parametrize(("part", "hint"), [("train", "what they leave"), ("tset", "did you mean `test`?")])
def test_a_part_nobody_knows_is_refused(project, part, hint):
    with pytest.raises(ConfigError, match=f"`{part}` is no part") as caught:
        project.curate(curate__split={part: 0.5})
    assert hint in caught.value.hint


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_is_none_is_refused(project, share):
    with pytest.raises(ConfigError):
        project.config(curate__split={"test": share})


def test_a_split_is_a_column_with_facts_and_features_never_look_past_an_event(project, tmp_path, capsys):
    day = 86_400
    rows = [(f"u{n % 4}", f"i{n % 7}", n * day, "view") for n in range(40)]
    rows += [("u0", "i9", 39 * day, "view"), ("u9", "i0", 38 * day, "view")]
    rows += [(f"u{n}", "", at * day + 1, "level") for n in range(4) for at in (0, 20, 34)]
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("user", "item"))}
    columns |= {"at": [1_600_000_000 + row[2] for row in rows], "kind": [row[3] for row in rows], "n": [row[2] for row in rows]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    project.ingest(tmp_path / "x.parquet", ingest__map=MAP)
    feature = {"kind": "level", "take": {"level": "props.n"}, "known": "ingest_time"}
    flags = {"curate__split": {"valid": "5d", "test": "5d"}, "curate__features": [feature]}
    made = project.curate(**flags)
    table = made.read()
    assert table.column_names[-2:] == ["split", "level"]
    facts = json.loads((made.folder / "manifest.json").read_text())["facts"]["split"]
    assert list(facts) == ["train", "valid", "test"]
    assert facts["test"] == {
        "rows": 7,
        "first_event": "2020-10-18T12:26:40Z",
        "last_event": "2020-10-22T12:26:40Z",
        "subjects": 5,
        "cold_subjects": 1,
        "objects": 6,
        "cold_objects": 1,
    }
    line = "test: 7 rows from 2020-10-18T12:26:40Z to 2020-10-22T12:26:40Z; 1 of 5 subjects and 1 of 6 objects are in no part"
    assert line in capsys.readouterr().err
    parts = dict.fromkeys(("train", "valid", "test"), ())
    for row in table.to_pylist():
        now = int(row["event_time"].timestamp()) - 1_600_000_000
        known = [at * day + 1 for at in (0, 20, 34) if at * day + 1 <= now and row["subject"] != "u9"]
        assert row["level"] == (known[-1] if known else None)
        parts[row["split"]] += (row["event_time"],)
    assert max(parts["train"]) < min(parts["valid"]) and max(parts["valid"]) < min(parts["test"])
    with pytest.raises(ConfigError, match="two columns would be `split`"):
        project.curate(curate__split={"test": "5d"}, curate__features=[{"kind": "level", "take": {"split": "props.n"}}])


def test_parts_that_leave_nothing_are_refused(project, tmp_path):
    columns = {"user": ["u", "v"], "item": ["i", "j"], "at": [1_600_000_000] * 2, "kind": ["view"] * 2}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    project.ingest(tmp_path / "x.parquet", ingest__map=MAP)
    for split in ({"test": "1d"}, {"test": 0.5}, {"valid": 0.1, "test": 0.1}):
        with pytest.raises(InputError, match=r"the part `(train|valid)` would be empty"):
            project.curate(curate__split=split)
    assert not (project.root / "datasets").exists() or not list((project.root / "datasets").glob("shop@*"))
