"""Who comes, what counts as taken, and how it is scored, in other words than the product's."""

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gyral.config import load
from gyral.curate.interactions import COLUMNS, decide
from gyral.errors import ServeError
from gyral.ingest.files import cut, layout_of
from gyral.ingest.sources import open_source
from gyral.live.behaviour import Behaviour
from gyral.live.population import Coming, Population, Scores, starts_of, visits_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The first days of the shop as events, its layout, and a configuration in which robots and returns are left alone."""
    import pyarrow.parquet as pq

    path = tmp_path_factory.mktemp("shop") / "shop.parquet"
    pq.write_table(pq.read_table(ROOT / "data" / "online_retail.parquet").sort_by("InvoiceDate").slice(0, 6_000), path)
    sets = [
        "curate.returns=drop", "curate.duplicates=false", "curate.robot_events_per_hour=1000000",
        "curate.robot_regular_events=1000000", "curate.robot_active_hours=1000000", "curate.robot_one_object_moments=1000000",
    ]  # fmt: skip
    config = load(path.parent, sets, {"ingest.source": str(path)})
    source = open_source(str(path), path.parent, print)
    layout = layout_of(source, config)
    return cut(source, layout, config, 1)[0].events, layout, config


def test_the_stream_keeps_what_the_batch_keeps(shop):
    events, layout, config = shop
    rows, reasons, names = decide(events.select(COLUMNS).to_batches(), [layout], config)
    met = Behaviour(config, layout)(events.combine_chunks().to_batches()[0])
    batch = Counter(zip(rows["subject"].to_pylist(), rows["object"].to_pylist(), rows["title"].to_pylist(), strict=True))
    assert Counter(zip(met.subject, met.object, [name or None for name in met.title], strict=True)) == batch
    assert met.dropped == Counter(names[reason] for reason in reasons.tolist() if reason > 0)
    apps = load(Path("/nonexistent"), ["curate.apps=['another']"])
    assert Behaviour(apps, layout)(events.combine_chunks().to_batches()[0]).dropped == {"other_app": events.num_rows}


def test_schemas_that_nobody_has_a_layout_for_are_not_remembered_for_ever(shop, monkeypatch):
    events, layout, config = shop
    monkeypatch.setattr("gyral.live.behaviour.MAX_SCHEMAS", 20)
    behaviour = Behaviour(config, layout)
    batch = events.slice(0, 50).combine_chunks().to_batches()[0]
    names = pa.array([f"made-up-{number}" for number in range(49)] + [layout.schema_id])
    met = behaviour(batch.set_column(batch.schema.get_field_index("schema_id"), "schema_id", names))
    assert len(met.subject) + met.dropped.total() == 50
    assert len(behaviour._known) <= 20 and behaviour._known[layout.schema_id] is layout


def test_visits_are_the_moments_of_subjects_in_order(shop):
    events, _, _ = shop
    events = events.filter(pa.compute.is_valid(events["subject"])).combine_chunks()
    visits = visits_of(events, {0: ["x"]}, share=1.0, seed=0)
    who, when = events["subject"].to_pylist(), events["event_time"].cast(pa.int64()).to_pylist()
    assert len(visits) == len(dict.fromkeys(zip(when, who, strict=True)))
    assert [visit.first for visit in visits[1:]] == [visit.end for visit in visits[:-1]] and visits[-1].end == len(who)
    for visit in visits:
        assert set(who[visit.first : visit.end]) == {visit.subject} and set(when[visit.first : visit.end]) == {visit.at_us}
    assert visits[0].taken == ["x"] and not visits[1].taken
    assert starts_of(events.slice(0, 0)).tolist() == []
    half = visits_of(events, {}, share=0.5, seed=1)
    assert 0.3 < np.mean([visit.is_asked for visit in half]) < 0.7


def test_scores_are_shares_of_what_was_taken():
    scores = Scores()
    scores.add("looped", ["a", "b", "c"], ["b"])
    scores.add("looped", ["a", "b"], ["c", "d"])
    scores.add("popularity", ["b"], ["b", "x"])
    fresh = scores.settle()["recall_at_10"]
    assert fresh == {"looped": 0.5, "frozen": None, "frozen_recent": None, "popularity": 0.5}
    scores.add("looped", ["d", "c"], ["c", "d"])
    assert scores.settle()["recall_at_10"]["looped"] == 1.0 and scores.count() == 3
    ndcg = [1 / np.log2(3), 0.0, 1.0]
    assert scores.mean("ndcg_at_10")["looped"] == pytest.approx(np.mean(ndcg), abs=1e-4)
    assert scores.mean("recall_at_10") == {"looped": 0.6667, "frozen": None, "frozen_recent": None, "popularity": 0.5}


def test_a_server_that_is_gone_ends_the_population_and_says_so(shop):
    events, _, _ = shop
    visits = [Coming(0, "ann", None, 0, 1, ["tea"], True), Coming(10, "ann", None, 1, 2, ["tea"], True)]
    people = Population("http://127.0.0.1:9", events.drop_columns(["ingest_time"]).combine_chunks(), visits, 1.0, users=2)
    with pytest.raises(ServeError, match="did not answer"):
        asyncio.run(people.run())
