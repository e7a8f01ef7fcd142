"""A model of real purchases behind rules, against its own answers."""

import json
import math
import time

import numpy as np
import pytest

from gyral import config as configs
from gyral.config.rerank import Block, Cap, Pin, Rerank
from gyral.config.sections import Serve
from gyral.errors import ConfigError
from gyral.model import card as cards
from gyral.model.family import RECOMMENDER
from gyral.serve.app import App
from gyral.serve.recommend.pipeline import Reranked, dressing
from gyral.serve.slots import Slots

SUBJECTS = ["17850", "13047", "nobody"]


@pytest.fixture(scope="module")
def model(made):
    return RECOMMENDER.load(cards.find(made.root, "shop"))


@pytest.fixture(scope="module")
def shelf(model, tmp_path_factory):
    """A project folder with `objects.csv`: a shelf by the first letter of the title, and when each was added."""
    root = tmp_path_factory.mktemp("shelf")
    inputs = model.codes.inputs
    rows = ["object,shelf,added"]
    for code, (name, title) in enumerate(zip(inputs.objects, inputs.titles, strict=True)):
        day = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() - 86_400 * (code % 400)))
        rows.append(f"{name},{title[:1] or '?'},{day}")
    (root / "objects.csv").write_text("\n".join(rows))
    return root


def shown(answer):
    return [item.object for item in answer.items]


def shelf_of(model, name):
    return model.codes.inputs.titles[model.codes.object[name]][:1] or "?"


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("context", [{}, {"country": "France"}, {"recent": ["22423", "85123A"]}])
def test_with_sources_alone_an_answer_is_the_models_own(model, shelf, subject, context):
    own = model.recommend(subject, 10, context)
    some = {"model": 200, "popular": 50, "similar": 50}
    got = Reranked(model, Rerank(candidates=some), shelf).recommend(subject, 10, context)
    assert [(item.object, item.score, item.title) for item in got.items] == [
        (item.object, item.score, item.title) for item in own.items
    ]
    assert got.known == own.known and not got.props and not any(item.why for item in got.items)


def test_caps_blocks_pins_and_no_repeats(model, shelf):
    own = shown(model.recommend("17850", 40, {}))
    pinned = next(name for name in model.codes.inputs.objects if name not in own)
    blocked = shelf_of(model, own[0])
    config = Rerank(
        objects="objects.csv",
        caps=[Cap("shelf", 2)],
        pins=[Pin(pinned, 3), Pin("no such object", 1)],
        blocks=[Block("shelf", blocked), Block("object", own[5])],
    )
    reranked = Reranked(model, config, shelf)
    got = shown(reranked.recommend("17850", 10, {}))
    shelves = [shelf_of(model, name) for name in got]
    assert got[2] == pinned and own[5] not in got and blocked not in [each for at, each in enumerate(shelves) if at != 2]
    assert max(shelves.count(each) for each in shelves) <= 2 and len(got) == 10
    assert reranked.card["rerank"]["pins_unknown"] == ["no such object"] and reranked.card["rerank"]["blocked"] > 1
    met = {model.codes.inputs.objects[code] for code in model.model.history(model.codes.subject["17850"])[0]}
    assert met & set(own)
    assert not met & set(shown(Reranked(model, Rerank(no_repeats=True), shelf).recommend("17850", 40, {})))


def test_blocked_ones_make_room_for_the_next_of_the_model(model, shelf):
    own = shown(model.recommend("17850", 30, {}))
    config = Rerank(candidates={"model": 10}, blocks=[Block("object", name) for name in own[:20]])
    assert shown(Reranked(model, config, shelf).recommend("17850", 10, {})) == own[20:]


def test_what_is_new_comes_first_when_that_is_all_that_counts(model, shelf):
    config = Rerank(objects="objects.csv", candidates={"model": 50, "fresh": 20}, fresh=10.0, fresh_half_life_days=1, because=1)
    got = Reranked(model, config, shelf).recommend("17850", 5, {})
    ages = [model.codes.object[item.object] % 400 for item in got.items]
    assert ages == sorted(ages) and ages[0] <= 1
    assert all(item.why["sources"].get("fresh") and "fresh" in item.why["rules"] for item in got.items[:2])


def test_diversity_spreads_over_what_is_met_together(model, shelf):
    def nearness(reranked):
        answers = [shown(reranked.recommend(name, 10, {})) for name in model.codes.inputs.subjects[:40]]
        codes = [[model.codes.object[name] for name in each] for each in answers]
        vectors = reranked._vectors_VD
        return np.mean([(vectors[each] @ vectors[each].T)[np.triu_indices(10, 1)].mean() for each in codes])

    base = nearness(Reranked(model, Rerank(because=1), shelf))
    for by in ("mmr", "dpp"):
        assert nearness(Reranked(model, Rerank(diversity=0.5, diversity_by=by, because=1), shelf)) < 0.7 * base


def test_reasons_are_the_terms_of_the_models_own_sum(model, shelf):
    reranked = Reranked(model, Rerank(because=20, candidates={"model": 100, "popular": 100}), shelf)
    code = model.codes.subject["17850"]
    for recent in (None, ["22423"]):
        context = {"recent": recent} if recent else {}
        codes = model.codes.objects(recent) if recent else None
        met, weights = model.model.history(code, codes)
        arrays, spec = model.model.arrays, model.model.spec
        row_of = {each: row for row, each in enumerate(arrays["head"].tolist())}
        for item in reranked.recommend("17850", 5, context).items:
            at = model.codes.object[item.object]
            terms = {}
            last = codes[-1] if recent else arrays["last"][code] if "last" in arrays else met[0]
            for one, weight in zip(met.tolist(), weights.tolist(), strict=True):
                row, column, term = row_of.get(one), row_of.get(at), 0.0
                if row is not None and column is not None:
                    term = weight * float(arrays["item_item"][row, column]) * float(arrays["item_item_scale"][row])
                    if "transition" in arrays and one == last:
                        term += spec.markov * float(arrays["transition"][row, column] * arrays["transition_scale"][row])
                if spec.repeats and one == at:
                    term += spec.repeat * weight
                terms[model.codes.inputs.objects[one]] = max(term, 0)
            total = sum(terms.values())
            assert item.why["by"] == "terms" and item.why["sources"]["model"] >= 1
            for reason in item.why["because"]:
                assert math.isclose(reason["share"], terms[reason["object"]] / total, abs_tol=1e-3)
            assert item.why["because"][0]["share"] >= max(terms.values()) / total - 1e-3
    assert "because" not in reranked.recommend("nobody", 1, {}).items[0].why


def test_exploration_logs_its_propensities_and_repeats_with_its_seed(model, shelf):
    def ask(seed):
        reranked = Reranked(model, Rerank(explore=0.5, temperature=1.0), shelf, np.random.default_rng(seed))
        return reranked.recommend("17850", 10, {})

    one, same, other = ask(1), ask(1), ask(2)
    assert shown(one) == shown(same) and one.props == same.props and shown(one) != shown(other)
    assert len(one.props["propensities"]) == 10 and one.props["candidates"] == 500
    assert all(0 < chance < 1 for chance in one.props["propensities"]) and one.props["explored"]


@pytest.mark.parametrize(
    "config",
    [
        Rerank(caps=[Cap("shelf", 1)]),
        Rerank(objects="objects.csv", caps=[Cap("colour", 1)]),
        Rerank(objects="none.csv"),
        Rerank(fresh=1.0),
    ],
)
def test_rules_about_what_is_not_known_are_refused(model, shelf, config):
    with pytest.raises(ConfigError):
        Reranked(model, config, shelf)


def test_nothing_set_puts_nothing_before_a_model(tmp_path):
    assert dressing(Rerank(), tmp_path) is None
    assert configs.load(tmp_path).rerank == Rerank()
    (tmp_path / "gyral.toml").write_text('[rerank]\ndiversity = 0.3\ncaps = [{column = "brand", most = 2, within = 5}]\n')
    assert configs.load(tmp_path).rerank == Rerank(diversity=0.3, caps=[Cap("brand", 2, 5)])


def test_a_server_answers_by_the_rules_and_logs_how(made, shelf):
    class Kept:
        appended = dropped = 0

        def __init__(self):
            self.rows = []

        def add(self, impression):
            self.rows.append(impression.logged())

    kept = Kept()
    config = Rerank(explore=0.3, because=2)
    slots = Slots(made.root, "shop", lambda text: None, dressing(config, shelf))
    app = App(slots, Serve(), kept)
    try:
        request = app._decoder.decode(b'{"subject": "17850", "k": 5}')
        answer = json.loads(app._encoder.encode(app.answer(request)))
    finally:
        app.close()
        slots.close()
    assert set(answer["items"][0]) == {"object", "score", "title", "why"} and answer["items"][0]["why"]["sources"]["model"]
    props = kept.rows[0].props
    assert len(props["propensities"]) == 5 and props["items"] == [item["object"] for item in answer["items"]]
