"""A ranking net behind the closed form: it competes where it is asked for, and what wins is served, measured and forgotten."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.config import Config, Recommend
from gyral.model import card as cards
from gyral.model.family import RECOMMENDER
from gyral.model.neural_recommender import NeuralRecommender
from gyral.model.recommender import Interactions
from gyral.train import ranking_candidate, sequence_candidate

SMALL = {"recommend__candidate": "never", "recommend__ranker": "auto", "recommend__width": 8, "recommend__length": 5}


@pytest.fixture
def visits(project):
    """900 events of 60 subjects, who like some objects and come back to what they met lately."""
    rng, rows = np.random.default_rng(0), []
    last = {}
    for number in range(900):
        subject = int(rng.integers(60))
        object_ = last[subject] if subject in last and rng.random() < 0.3 else int(30 * rng.random() ** 2)
        last[subject] = object_
        rows.append((f"s{subject}", f"o{object_:02d}", number * 7_200_000_000))
    subject, object_, time = zip(*rows, strict=True)
    path = project.root / "visits.parquet"
    times = pa.array(time, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"subject": subject, "object": object_, "event_time": times}), path)
    project.ingest(path)
    project.curate("visits")
    return project


def test_a_ranker_that_wins_serves_and_can_be_made_smaller_and_forgets(visits, monkeypatch):
    monkeypatch.setattr(sequence_candidate, "MIN_GAIN", -1.0)  # whatever it has learned
    card = visits.train("visits", budget_s=60.0, **SMALL)
    (chosen,) = [entry for entry in card.candidates if entry["chosen"]]
    assert chosen["name"].startswith("dcn of ") and {"popularity", "ease"} <= {entry["name"] for entry in card.candidates}
    model = RECOMMENDER.load(cards.find(visits.root, "visits"))
    assert isinstance(model.model, NeuralRecommender) and model.model.best == ranking_candidate.BEST
    assert len(model.recommend("s3", 5, {}).items) == len(model.recommend("nobody", 5, {}).items) == 5
    small = visits.compress("visits")
    assert small.compression.metric_before == pytest.approx(chosen["ndcg_at_10"], abs=1e-4)
    assert RECOMMENDER.erase(cards.find(visits.root, "visits-int8"), "s3")


def test_a_ranker_that_knows_nothing_is_told_of_and_does_not_serve(visits, monkeypatch):
    monkeypatch.setattr(ranking_candidate, "num_steps", lambda *_: 1)
    monkeypatch.setattr(ranking_candidate, "CLOSED", (0.0,))
    card = visits.train("visits", budget_s=60.0, **SMALL)
    (chosen,) = [entry for entry in card.candidates if entry["chosen"]]
    assert not chosen["name"].startswith("dcn") and any(entry["name"].startswith("dcn") for entry in card.candidates)
    assert not isinstance(RECOMMENDER.load(cards.find(visits.root, "visits")).model, NeuralRecommender)


def test_it_is_planned_only_where_it_is_asked_for_and_paid():
    some = np.zeros(100_000, np.int32)
    data = Interactions(some, some, some.astype(np.int64), some, 1, 1, 1)
    asked = Config(recommend=Recommend(ranker="auto"))
    assert ranking_candidate.planned_s(data, Config(), 1e6) == 0.0
    assert 20 < ranking_candidate.planned_s(data, asked, 180.0) < 60
    assert ranking_candidate.planned_s(data, asked, 30.0) == 0.0
