import json

import pytest

from gyral.errors import InputError, NotFound, UsageError
from gyral.model import card as cards
from gyral.model.evaluate import evaluate
from gyral.model.family import RECOMMENDER
from gyral.run import Run, read_lineage


@pytest.fixture
def curated(project, small_shop):
    project.ingest(small_shop)
    project.curate()
    return project


def test_a_model_folder_is_whole_and_its_card_says_what_was_measured(curated):
    card = curated.train()
    folder = curated.root / "models" / "shop@1"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "inputs.json", "weights.safetensors"]
    told = json.loads((folder / "card.json").read_text())
    assert told["dataset"] == "shop@1" and "20 %" in told["measured_on"] and told["num_interactions"] > 30_000
    by_name = {entry["name"]: entry["ndcg_at_10"] for entry in told["candidates"]}
    chosen = next(entry for entry in told["candidates"] if entry["chosen"])
    assert chosen["ndcg_at_10"] >= max(by_name["popularity"], by_name["item_item_markov"])
    lineage = read_lineage(curated.root, card.run)
    assert [(each.kind, each.name) for each in lineage.inputs + lineage.outputs] == [("dataset", "shop@1"), ("model", "shop@1")]


def test_the_same_data_and_seed_give_the_same_weights(curated):
    for _ in range(2):
        curated.train()
    weights = [(curated.root / f"models/shop@{number}/weights.safetensors").read_bytes() for number in (1, 2)]
    assert weights[0] == weights[1]


def test_a_loaded_model_knows_names_titles_and_strangers(curated):
    curated.train()
    model = RECOMMENDER.load(cards.find(curated.root, "shop"))
    answer = model.recommend("17850", 5, {})
    assert answer.known and len(answer.items) == 5
    assert all(item.object[:5].isdigit() and item.title for item in answer.items)
    stranger = model.recommend("nobody", 5, {"country": "Atlantis"})
    assert not stranger.known and len(stranger.items) == 5
    steered = model.recommend("nobody", 5, {"recent": ["85123A", "not an object"]})
    assert [item.object for item in steered.items] != [item.object for item in stranger.items]
    assert [item.score for item in answer.items] == sorted((item.score for item in answer.items), reverse=True)


def test_eval_asks_only_about_what_came_later(curated, retail):
    curated.train()
    config = curated.config()
    with pytest.raises(InputError, match="nothing later"), Run.start(curated.root, "eval", config) as run:
        evaluate(curated.root, "shop", "shop", run)
    curated.ingest(retail)
    curated.curate()
    with Run.start(curated.root, "eval", config) as run:
        result = evaluate(curated.root, "shop@1", "shop", run)
    assert result["known_ndcg_at_10"]["model"] > result["known_ndcg_at_10"]["popularity"] > 0
    assert result["subjects"] > result["known"] > 0


def test_what_is_not_there_or_unknown_is_named(curated):
    with pytest.raises(NotFound, match="no dataset `shoes`"):
        curated.train("shoes")
    with pytest.raises(UsageError) as caught:
        curated.train(train__family="recomender")
    assert "did you mean `recommender`?" in caught.value.hint


@pytest.mark.parametrize("name", ["weights.safetensors", "card.json"])
def test_a_truncated_model_is_a_clear_error(curated, name):
    curated.train()
    path = curated.root / "models/shop@1" / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="cannot be read"):
        RECOMMENDER.load(cards.find(curated.root, "shop"))
