"""A net serves only where it is clearly better, and where it is not planned torch is never loaded."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.model import card as cards
from gyral.model.family import RECOMMENDER
from gyral.model.neural_recommender import NeuralRecommender
from gyral.train import sequence_candidate

OBJECTS = 24
SMALL = {"recommend__width": 16, "recommend__length": 5, "recommend__dropout": 0.1}


@pytest.fixture
def walks(project):
    """Five days of walks around a ring with steps of one's own: the fifth place, held out, follows from the last two only."""
    rng = np.random.default_rng(0)
    rows = []
    for subject in range(400):
        at, step = int(rng.integers(OBJECTS)), (1, 5, 7, 11)[subject % 4]
        rows += [(f"s{subject}", f"o{(at + day * step) % OBJECTS:02d}", day * 86_400 + subject) for day in range(5)]
    subject, object_, time = zip(*sorted(rows, key=lambda row: row[2]), strict=True)
    times = pa.array([each * 1_000_000 for each in time], pa.timestamp("us", "UTC"))
    path = project.root / "walks.parquet"
    pq.write_table(pa.table({"subject": subject, "object": object_, "event_time": times}), path)
    project.ingest(path)
    project.curate("walks")
    return project


def test_a_net_that_knows_more_serves_and_can_be_made_smaller_and_forgets(walks, monkeypatch):
    monkeypatch.setattr(sequence_candidate, "OPTIM", sequence_candidate.OPTIM.__class__(rate=1e-2, warmup=20, decay=0.5))
    card = walks.train("walks", budget_s=60.0, **SMALL)
    by_name = {entry["name"]: entry for entry in card.candidates}
    (chosen,) = [entry for entry in card.candidates if entry["chosen"]]
    assert chosen["name"].startswith("hstu") and {"popularity", "ease", "hstu"} <= set(by_name)
    best = max(entry["ndcg_at_10"] for entry in card.candidates if not entry["name"].startswith("hstu"))
    assert chosen["ndcg_at_10"] > best * 1.005
    model = RECOMMENDER.load(cards.find(walks.root, "walks"))
    assert isinstance(model.model, NeuralRecommender)
    right = [
        f"o{(9 + 4 * step) % OBJECTS:02d}" == model.recommend("x", 1, {"recent": walk}).items[0].object
        for step in (1, 5, 7, 11)
        if (walk := [f"o{(9 + n * step) % OBJECTS:02d}" for n in range(4)])
    ]
    assert sum(right) >= 3
    small = walks.compress("walks")
    assert small.compression.relative_loss < 0.01 and small.compression.metric_before == pytest.approx(
        chosen["ndcg_at_10"], abs=1e-4
    )
    folder = cards.find(walks.root, "walks-int8")
    assert RECOMMENDER.erase(folder, "s3") and not RECOMMENDER.erase(folder, "s3")
    forgotten = RECOMMENDER.load(folder)
    assert not forgotten.recommend("s3", 5, {}).known and forgotten.recommend("s4", 5, {}).known


def test_where_it_is_not_better_the_closed_form_serves(walks, monkeypatch):
    monkeypatch.setattr(sequence_candidate, "PASSES", 0)
    monkeypatch.setattr(sequence_candidate, "MIN_STEPS", 1)
    card = walks.train("walks", budget_s=60.0, **SMALL)
    (chosen,) = [entry for entry in card.candidates if entry["chosen"]]
    assert not chosen["name"].startswith("hstu") and "hstu" in {entry["name"] for entry in card.candidates}
    assert not isinstance(RECOMMENDER.load(cards.find(walks.root, "walks")).model, NeuralRecommender)


def test_what_the_budget_does_not_pay_is_not_planned_and_loads_no_torch(walks):
    code = (
        "import sys; from pathlib import Path; from gyral import config; from gyral.run import Run\n"
        "from gyral.train.trainer import train\n"
        "root = Path(sys.argv[1]); settings = config.load(root)\n"
        "with Run.start(root, 'train', settings) as run: card = train(root, 'walks', settings, run, budget_s=0.5)\n"
        "assert not any(entry['name'].startswith('hstu') for entry in card.candidates)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(walks.root)], timeout=120).returncode == 0


def test_the_plan_follows_the_budget_and_the_switch(walks):
    from gyral.lake import dataset as datasets
    from gyral.model import inputs

    _, data = inputs.encode(datasets.find(walks.root, "walks").read())
    config = walks.config(**SMALL)
    cost_s = sequence_candidate.planned_s(data, config, 1e9)
    assert cost_s > 0 and sequence_candidate.planned_s(data, config, 1e9) == cost_s
    assert sequence_candidate.planned_s(data, config, 2.01 * cost_s) == cost_s
    assert sequence_candidate.planned_s(data, config, 1.99 * cost_s) == 0
    assert sequence_candidate.planned_s(data, walks.config(**SMALL, recommend__candidate="never"), 1e9) == 0
