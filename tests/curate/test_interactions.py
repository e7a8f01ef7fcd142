import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gyral.config.sections import Rule
from gyral.curate import robots
from gyral.curate.interactions import Until
from gyral.errors import ConfigError, InputError, NotFound
from gyral.lake import dataset as datasets
from gyral.serve.feedback import Impression, Impressions

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
    told = [made.why(project.lake, each["event_id"])["reason"] for each in project.events(["event_id"])[:5]]
    assert told == [None, "duplicate", "missing_subject", "missing_object", None]
    with pytest.raises(NotFound):
        made.why(project.lake, project.events(["event_id"])[5]["event_id"])


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


def test_nothing_later_than_until_is_selected_and_at_that_very_time_only_what_was_shown(project, tmp_path):
    source = write(tmp_path / "x.parquet", [row(item=f"i{number}", at=1_600_000_000 + number // 2) for number in range(8)])
    project.ingest(source, ingest__map=MAP)
    shown = project.events(["event_id", "object"])[2]
    # another copy of the same rows: other digest, so other ids, and one row more
    copy = write(tmp_path / "y.parquet", [row(item=f"i{number}", at=1_600_000_000 + number // 2) for number in range(9)])
    project.ingest(copy, ingest__map=MAP)
    manifest = project.curate(until=Until(1_600_000_001_000_000, frozenset([shown["event_id"]]))).manifest
    assert (manifest.rows_in, manifest.rows_kept, shown["object"]) == (5, 5, "i2")
    table = datasets.find(project.root, "shop").read()
    assert sorted(table["object"].to_pylist()) == ["i0", "i0", "i1", "i1", "i2"]


def test_what_was_only_shown_is_dropped_by_name_and_what_a_server_showed_is_not_looked_at(project, tmp_path):
    rows = [row(kind="impression"), row(kind="click")]
    project.ingest(write(tmp_path / "x.parquet", rows), ingest__map={**MAP, "kind": "kind"})
    impressions = Impressions(project.lake, print)
    impressions.add(Impression("id", 1_600_000_000_000_000, "u", None, "shop@1", "default", 1, ["i"], [1.0]))
    impressions.close()
    project.ingest("")
    manifest = project.curate().manifest
    assert (manifest.rows_in, manifest.rows_kept, manifest.dropped) == (2, 1, {"impression": 1})


def test_two_files_in_one_lake_are_two_apps(project, tmp_path, capsys):
    for name in ("a", "b"):
        project.ingest(write(tmp_path / f"{name}.parquet", [row(item=name), row("v", item=name)]), ingest__map=MAP)
    assert project.curate().manifest.rows_kept == 4
    assert "events of 2 apps are taken together: a, b" in capsys.readouterr().err
    assert project.curate(curate__apps=["b"]).read()["object"].to_pylist() == ["b", "b"]
    with pytest.raises(InputError, match="no events of `bb`") as caught:
        project.curate(curate__apps=["bb"])
    assert "did you mean `b`?" in caught.value.hint


PRICES = ["5", " -1.5 ", "free", "", "0", "1e3"]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_rule_on_numbers_means_the_same_in_every_format(project, tmp_path, name):
    path = tmp_path / name
    if name.endswith("csv"):
        path.write_text("user,item,at,price\n" + "".join(f"u,i{n},2020-01-0{n + 1},{p}\n" for n, p in enumerate(PRICES)))
    else:
        values = [5, -1.5, "free", None, 0, 1e3]
        rows = [{"user": "u", "item": f"i{n}", "at": f"2020-01-0{n + 1}", "price": value} for n, value in enumerate(values)]
        if name.endswith("jsonl"):
            path.write_text("".join(json.dumps(each) + "\n" for each in rows))
        else:
            write(path, [{**each, "price": None if each["price"] == "free" else each["price"]} for each in rows])
    project.ingest(path, ingest__map=MAP)
    dropped = {}
    for op, value in (("<=", 0), (">", 4.5), ("==", 1000)):
        rule = {"reason": "priced", "field": "props.price", "op": op, "value": value}
        dropped[op] = project.curate(curate__rules=[rule]).manifest.dropped.get("priced", 0)
    assert dropped == {"<=": 2, ">": 2, "==": 1}


def test_rules_compare_times_and_tell_what_can_never_hold(project, tmp_path, capsys):
    project.ingest(write(tmp_path / "x.parquet", [row(), row(item="j", at=1_700_000_000)]), ingest__map=MAP)
    late = {"reason": "late", "field": "event_time", "op": ">=", "value": "2022-01-01T00:00:00Z"}
    assert project.curate(curate__rules=[late]).manifest.dropped == {"late": 1}
    for wrong in ({**late, "value": "soon"}, {**late, "value": None}):
        with pytest.raises(ConfigError, match="the rule `late` compares"):
            project.curate(curate__rules=[wrong])
    project.curate(curate__rules=[{"reason": "dear", "field": "props.prise", "op": ">", "value": 1}])
    assert "looks at `props.prise`, which no event has" in capsys.readouterr().err


def test_somebody_who_comes_every_day_is_no_robot_and_a_title_is_kept(project, tmp_path):
    rows = [row(at=1_600_000_000 + 86_400 * day, item=f"i{day % 7}", label=f"Item {day % 7}") for day in range(260)]
    rows += [row("r", at=1_600_000_000 + 60 * minute, item="i0", label="Item 0") for minute in range(260)]
    project.ingest(write(tmp_path / "x.parquet", rows), ingest__map={**MAP, "title": "label"})
    data = project.curate()
    assert data.manifest.dropped == {"robot": 260}
    assert set(data.read()["title"].to_pylist()) == {f"Item {number}" for number in range(7)}


def test_a_name_that_is_taken_while_a_dataset_is_made_leaves_the_pin_of_the_other(project, tmp_path):
    project.ingest(write(tmp_path / "x.parquet", [row()]), ingest__map=MAP)
    first = project.curate()
    shutil.rmtree(first.folder)  # as if it had been killed between pin and publication
    project.ingest(write(tmp_path / "y.parquet", [row(item="j")]), ingest__map=MAP)
    second = project.curate()
    assert second.name == first.name and second.manifest.lake["events"]["version"] > first.manifest.lake["events"]["version"]
    tags = project.lake.snapshot("events")._dataset.tags.list()
    assert (
        tags[f"dataset-shop-1-v{second.manifest.lake['events']['version']}"]["version"]
        == second.manifest.lake["events"]["version"]
    )


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
