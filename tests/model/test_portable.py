"""What goes to devices is nobody's own, and answers somebody new as the whole model does."""

import msgspec
import numpy as np
import pytest

from gyral.errors import InputError
from gyral.model import card as cards
from gyral.model import inputs as model_inputs
from gyral.model.card import Weights
from gyral.model.family import RECOMMENDER, recommender_of
from gyral.model.portable import without_subjects


def test_a_closed_form_without_its_subjects_answers_somebody_new_as_before(made, tmp_path):
    folder = cards.find(made.root, "shop")
    told = RECOMMENDER.portable(folder)
    for name, body in told.files.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "card.json").write_bytes((folder / "card.json").read_bytes())
    whole, lean = RECOMMENDER.load(folder), RECOMMENDER.load(tmp_path)
    assert told.runtimes == () and lean.codes.inputs.subjects == [] and lean.codes.inputs.objects == whole.codes.inputs.objects
    objects = whole.codes.inputs.objects
    for context in ({}, {"recent": objects[:4]}, {"country": "France"}, {"recent": objects[9:10], "country": "Germany"}):
        for ask in ("recommend", "popular"):
            one, other = (getattr(model, ask)("nobody", 50, context) for model in (whole, lean))
            assert one == other and len(one.items) == 50
    known = whole.codes.inputs.subjects[3]
    assert whole.recommend(known, 5, {}).known and not lean.recommend(known, 5, {}).known


def test_no_array_of_a_portable_model_grows_with_its_subjects(made):
    weights = cards.read_weights(cards.find(made.root, "shop"))
    subjects = len(model_inputs.load(cards.find(made.root, "shop")).subjects)
    assert [name for name, each in weights.arrays.items() if subjects <= len(each) <= subjects + 1] == ["indptr"]
    lean = without_subjects(weights).arrays
    assert set(lean) == set(weights.arrays)
    grown = [name for name, each in lean.items() if each.nbytes != weights.arrays[name].nbytes]
    assert sorted(grown) == ["history", "indptr", "last", "weight"] if "last" in lean else ["history", "indptr", "weight"]


@pytest.mark.slow
@pytest.mark.parametrize("net", ["two_tower", "sequence"])
def test_a_net_without_its_subjects_answers_somebody_new_as_before(net):
    import torch

    from gyral.model.neural_recommender import NETS, arrays_of, meta_of
    from gyral.model.recommender import Interactions, Spec, fit_with

    rng = np.random.default_rng(0)
    num, subjects, objects = 400, 30, 20
    time = np.sort(rng.integers(0, 10**6, num)) * 1_000_000
    who, what = (rng.integers(0, size, num).astype(np.int32) for size in (subjects, objects))
    data = Interactions(who, what, time, np.full(num, -1, np.int32), subjects, objects, 1)
    closed = fit_with(data, Spec("x", repeat=1.0, popular=1.0))
    shape = {"objects": objects, "width": 8, "length": 8, "hidden": 16}
    shape |= {"subjects": subjects, "countries": 1} if net == "two_tower" else {"depth": 1, "heads": 2}
    kind, build = NETS[net]
    arrays = {**arrays_of(data, closed, 8), "words_VW": np.zeros((objects, 2), np.int64)}
    torch.manual_seed(0)
    made = build(kind(**shape), arrays)
    arrays |= {name: value.numpy() for name, value in made.state_dict().items() if name != "words_VW"}
    arrays["twin.objects.weight"] = np.ones((objects, 8), np.float32)  # to measure on, here and nowhere else
    weights = Weights(arrays, meta_of(net, shape, closed, 0.5))
    lean = without_subjects(weights)
    one, other = recommender_of(weights), recommender_of(lean)
    for recent in (None, np.array([3, 5, 1], np.int32)):
        assert np.array_equal(one.scores(-1, -1, recent), other.scores(-1, -1, recent))
    assert not [name for name in lean.arrays if name.startswith("twin.")]
    assert sum(each.nbytes for each in lean.arrays.values()) < sum(each.nbytes for each in arrays.values()) - 4 * num


def test_a_net_that_counts_everybodys_events_stays():
    with pytest.raises(InputError, match="cannot go to a device"):
        without_subjects(Weights({}, {"net": "ranking"}))


def test_weights_are_the_same_bytes_each_time(made):
    folder = cards.find(made.root, "shop")
    assert RECOMMENDER.portable(folder) == RECOMMENDER.portable(folder)
    assert msgspec.json.decode(RECOMMENDER.portable(folder).files["inputs.json"])["subjects"] == []
