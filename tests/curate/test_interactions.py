import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gyral.config import Rule
from gyral.curate import robots
from gyral.curate.interactions import Until
from gyral.errors import ConfigError, InputError, NotFound
from gyral.lake import dataset as datasets

MAP = {"subject": "user", "object": "item", "time": "at"}


def write(path, rows):
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
    pq.write_table(pa.table(columns), path)
    return path


def row(user="u", item="i", at=1_600_000_000, **more):
    return {"user": user, "item": item, "at": at, **more}


def test_the_bundled_purchases_lose_exactly_their_dirt(project, retail):
    """Counted independently, with plain Python over the file."""
    project.ingest(retail)
    manifest = project.curate().manifest
    dropped = {"missing_subject": 0, "return": 0, "bad_price": 0, "non_product": 0, "duplicate": 0}
    kept, seen = 0, set()
    import re

    product = re.compile(r"\d{5}[A-Za-z]{0,2}$")
    for line in pq.read_table(retail).to_pylist():
        if line["CustomerID"] is None:
            dropped["missing_subject"] += 1
        elif line["InvoiceNo"][0] in "Cc" or line["Quantity"] <= 0:
            dropped["return"] += 1
        elif line["UnitPrice"] <= 0:
            dropped["bad_price"] += 1
        elif not product.match(line["StockCode"]):
            dropped["non_product"] += 1
        elif tuple(line.values()) in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(tuple(line.values()))
            kept += 1
    assert manifest.dropped == dropped
    assert (manifest.rows_in, manifest.rows_kept) == (541_909, kept)
    assert (manifest.subjects, manifest.repeats, manifest.repeats_from) == (4_334, True, "layout")


def test_every_row_of_the_pinned_version_has_a_decision_that_can_be_shown(project, tmp_path):
    source = write(tmp_path / "x.parquet", [row(), row(), row(user=None), row(item=None), row(user="v")])
    project.ingest(source, ingest__map=MAP)
    made = project.curate()
    assert made.manifest.dropped == {"missing_subject": 1, "missing_object": 1, "duplicate": 1}
    project.ingest(write(tmp_path / "later.parquet", [row(at=1_700_000_000)]), ingest__map=MAP)
    told = [made.why(project.root, each["event_id"])["reason"] for each in project.events(["event_id"])[:5]]
    assert told == [None, "duplicate", "missing_subject", "missing_object", None]
    with pytest.raises(NotFound):
        made.why(project.root, project.events(["event_id"])[5]["event_id"])


def test_the_same_version_gives_the_same_bytes_whatever_the_workers(project, retail):
    project.ingest(retail)
    shards = [project.curate(on=on).manifest.shards for on in ("local://threads=1", "local://threads=4")]
    assert shards[0] == shards[1]


def test_own_rules_look_at_envelope_and_props(project, tmp_path):
    source = write(tmp_path / "x.parquet", [row(item=f"i{number}", stars=number) for number in range(6)])
    project.ingest(source, ingest__map=MAP)
    rules = [
        {"reason": "low", "field": "props.stars", "op": "<", "value": 2},
        {"reason": "named", "field": "object", "op": "matches", "value": "^i5$"},
        {"reason": "empty", "field": "props.nothing", "op": "is null"},
    ]
    assert project.curate(curate__rules=rules[:2]).manifest.dropped == {"low": 2, "named": 1}
    with pytest.raises(InputError, match="no row is left"):
        project.curate(curate__rules=rules)


def test_a_rule_on_what_no_event_has_is_refused(project, tmp_path):
    project.ingest(write(tmp_path / "x.parquet", [row()]), ingest__map=MAP)
    for rule in (Rule("x", "objekt", "is null"), Rule("x", "object", "matches", "(")):
        with pytest.raises(ConfigError):
            project.curate(curate__rules=[{"reason": rule.reason, "field": rule.field, "op": rule.op, "value": rule.value}])


def test_nothing_later_than_until_is_selected_and_ties_are_held_back_by_id(project, tmp_path):
    source = write(tmp_path / "x.parquet", [row(item=f"i{number}", at=1_600_000_000 + number // 2) for number in range(8)])
    project.ingest(source, ingest__map=MAP)
    held = project.events(["event_id", "object"])[3]
    manifest = project.curate(until=Until(1_600_000_001_000_000, frozenset([held["event_id"]]))).manifest
    assert (manifest.rows_in, manifest.rows_kept) == (3, 3)
    table = datasets.find(project.root, "shop").read()
    assert sorted(table["object"].to_pylist()) == ["i0", "i1", "i2"] and held["object"] == "i3"


def test_impressions_are_no_interactions(project, tmp_path):
    project.ingest(
        write(tmp_path / "x.parquet", [row(kind="impression"), row(kind="click")]), ingest__map={**MAP, "kind": "kind"}
    )
    assert project.curate().manifest.rows_in == 1


@pytest.mark.parametrize(("times", "repeats"), [([0, 5], True), ([0, 0], False)])
def test_whether_objects_repeat_is_measured_when_nobody_says(project, tmp_path, times, repeats):
    rows = [row(user=f"u{number}", at=1_600_000_000 + time, n=n) for number in range(5) for n, time in enumerate(times)]
    project.ingest(write(tmp_path / "x.parquet", rows), ingest__map=MAP)
    manifest = project.curate().manifest
    assert manifest.repeats is repeats and manifest.repeats_from.startswith("measured")
    assert project.curate(curate__repeats=not repeats).manifest.repeats is not repeats


def test_a_shard_that_was_changed_is_refused(project, tmp_path):
    project.ingest(write(tmp_path / "x.parquet", [row()]), ingest__map=MAP)
    made = project.curate()
    path = made.folder / "shards" / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="not what was written"):
        datasets.find(project.root, "shop").read()


def test_a_dataset_that_is_not_there_is_named_with_the_nearest(project, tmp_path):
    project.ingest(write(tmp_path / "x.parquet", [row()]), ingest__map=MAP)
    project.curate()
    with pytest.raises(NotFound) as caught:
        datasets.find(project.root, "shopp")
    assert "did you mean `shop`?" in caught.value.hint
    assert json.loads((project.root / "datasets/shop@1/manifest.json").read_text())["dataset"] == "shop@1"


def test_titles_follow_the_objects(project, retail):
    project.ingest(retail)
    table = datasets.find(project.root, project.curate().name).read()
    lamp = table.filter(pc.equal(table["object"], "85123A"))["title"].unique().to_pylist()
    assert any("T-LIGHT HOLDER" in title for title in lamp)


def find(subjects, times, per_hour=100, regular=20):
    found = robots.find(np.array(subjects), np.array(times), events_per_hour=per_hour, regular_events=regular)
    return sorted(set(np.array(subjects)[found].tolist()))


def test_robots_are_too_fast_or_too_regular():
    rng = np.random.default_rng(0)
    hour = robots.HOUR_US
    person = np.cumsum(rng.exponential(hour, 200)).astype(np.int64)
    fast = np.arange(101) * 1000 + 5 * hour
    clock = np.arange(30) * hour // 2
    subjects = [0] * 200 + [1] * 101 + [2] * 30
    times = np.concatenate([person, fast, clock])
    assert find(subjects, times) == [1, 2]
    assert find(subjects, times, per_hour=101, regular=200) == []
    assert find([], []) == []


def test_a_big_basket_at_one_moment_is_no_clock():
    assert find([0] * 90, [7] * 90) == []
