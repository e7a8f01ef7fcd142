"""`gyral eval` against a plain count over the dataset."""

import pyarrow.parquet as pq
import pytest

from gyral.config import Config
from gyral.errors import InputError
from gyral.lake import dataset as datasets
from gyral.model.evaluate import evaluate, mean
from gyral.model.family import RECOMMENDER
from gyral.run import Run


def run(project, model, dataset):
    with Run.start(project.root, "eval", Config()) as run:
        return evaluate(project.root, model, dataset, run)


@pytest.mark.parametrize("repeats", [True, False])
def test_what_came_later_is_scored_and_where_nothing_repeats_what_was_met_is_not_asked_for(
    project, small_shop, tmp_path, repeats
):
    early = tmp_path / "shop.parquet"
    pq.write_table(pq.read_table(small_shop).slice(0, 40_000), early)
    project.ingest(early)
    project.curate(curate__repeats=repeats)
    project.train(budget_s=0.5)
    with pytest.raises(InputError, match="holds nothing later"):
        run(project, "shop", "shop")
    project.ingest(small_shop)
    project.curate("later", curate__repeats=repeats)
    result = run(project, "shop", "later")
    model = RECOMMENDER.load(project.root / "models" / "shop@1")
    rows = datasets.find(project.root, "later").read().to_pylist()
    until = max(row["event_time"] for row in datasets.find(project.root, "shop").read().to_pylist())
    before, after = {}, {}
    for row in rows:
        part = after if row["event_time"] > until else before
        part.setdefault(row["subject"], []).append((row["object"], row["country"]))
    hits = {"model": [], "popularity": []}
    for subject, met in after.items():
        objects = {name for name, _ in met} - (set() if repeats else {name for name, _ in before.get(subject, [])})
        if objects:
            context = {"country": met[0][1]}
            for name, answer in (
                ("model", model.recommend(subject, 10, context)),
                ("popularity", model.popular(subject, 10, context)),
            ):
                hits[name].append(bool({item.object for item in answer.items} & objects))
    assert result["subjects"] == len(hits["model"]) > 100
    assert result["hit_at_10"] == {name: pytest.approx(sum(each) / len(each), abs=1e-6) for name, each in hits.items()}


def test_a_mean_over_nobody_is_none():
    import numpy as np

    values = {"hit_at_10": np.array([1.0, 0.0])}
    assert mean(values) == {"hit_at_10": 0.5} and mean(values, np.array([False, False])) == {"hit_at_10": None}
