"""Places of an answer against what is written out by hand."""

import itertools

import numpy as np
import pytest

from gyral.serve.recommend.slate import How, Limit, slate


def codes(places):
    return [place.candidate for place in places]


def vectors(num, seed=0, width=4):
    made = np.random.default_rng(seed).normal(size=(num, width))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def test_with_nothing_set_places_follow_relevance_and_ties_the_order_given():
    assert codes(slate(np.array([0.5, 1, 0.5, 0.2]), 3, How())) == [1, 0, 2]
    assert codes(slate(np.array([0.5, 1]), 9, How())) == [1, 0]
    assert slate(np.zeros(0), 3, How()) == []


@pytest.mark.parametrize("seed", range(5))
def test_mmr_is_its_definition(seed):
    relevance, unit, share = np.random.default_rng(seed).random(12), vectors(12, seed), 0.4
    want = []
    for _ in range(6):
        value = {
            each: (1 - share) * relevance[each] - share * max((float(unit[each] @ unit[one]) for one in want), default=0)
            for each in range(12)
            if each not in want
        }
        want.append(max(value, key=value.get))
    assert codes(slate(relevance, 6, How(share), unit)) == want


@pytest.mark.parametrize("seed", range(5))
def test_greedy_dpp_takes_what_adds_most_to_the_determinant(seed):
    relevance, unit, share = np.random.default_rng(seed).random(9), vectors(9, seed), 0.5

    def value(chosen):
        kernel = unit[chosen] @ unit[chosen].T
        return (1 - share) * relevance[chosen].sum() + share * np.linalg.slogdet(kernel)[1]

    want = []
    for _ in range(4):
        want.append(max((each for each in range(9) if each not in want), key=lambda each: value([*want, each])))
    assert codes(slate(relevance, 4, How(share, "dpp"), unit)) == want


@pytest.mark.parametrize("by", ["mmr", "dpp"])
def test_the_same_object_twice_is_not_diverse(by):
    unit = np.array([[1, 0], [1, 0], [0, 1.0]])
    places = slate(np.array([1, 0.99, 0.5]), 3, How(0.6, by), unit)
    assert codes(places) == [0, 2, 1] and places[1].rules == ("diverse",)


def test_caps_hold_in_all_places_or_in_a_window():
    brand = np.array([0, 0, 0, 0, 1, -1, -1])
    relevance = np.linspace(1, 0, 7)
    places = slate(relevance, 7, How(limits=[Limit(brand, 2, 0)]))
    assert codes(places) == [0, 1, 4, 5, 6] and places[2].rules == ("cap",)
    for most, within in itertools.product((1, 2), (2, 3, 4)):
        got = brand[codes(slate(relevance, 7, How(limits=[Limit(brand, most, within)])))]
        for start in range(len(got)):
            window = got[start : start + within]
            assert all((window == value).sum() <= most for value in (0, 1))
    assert codes(slate(relevance, 7, How(limits=[Limit(brand, 1, 2)])))[:4] == [0, 4, 1, 5]


def test_pins_keep_their_places_and_count_for_caps():
    brand = np.array([0, 0, 1, 1])
    places = slate(np.array([1, 0.9, 0.8, 0.1]), 4, How(limits=[Limit(brand, 1, 0)], pins={0: 3}))
    assert codes(places) == [3, 0] and places[0].rules == ("pin",) and places[0].propensity == 1


def test_propensities_are_the_shares_of_draws():
    """Against counts: 20,000 answers, every ordered pair, four standard errors."""
    how, relevance = How(explore=0.5, temperature=0.5), np.array([1.0, 0.8, 0.2, 0.0])
    random, times = np.random.default_rng(0), 20_000
    seen, told = {}, {}
    for _ in range(times):
        places = slate(relevance, 2, how, random=random)
        pair = tuple(codes(places))
        seen[pair] = seen.get(pair, 0) + 1
        told[pair] = places[0].propensity * places[1].propensity
    assert len(seen) == 12 and abs(sum(told.values()) - 1) < 1e-9
    for pair, chance in told.items():
        assert abs(seen[pair] / times - chance) <= 4 * (chance * (1 - chance) / times) ** 0.5


def test_what_may_not_be_shown_is_never_drawn():
    how = How(explore=1.0, temperature=50.0, limits=[Limit(np.array([0, 0, 0, 1]), 1, 0)])
    for seed in range(50):
        got = slate(np.array([1, 0.9, 0.8, 0.0]), 4, how, random=np.random.default_rng(seed))
        assert sorted(np.array([0, 0, 0, 1])[codes(got)]) == [0, 1]
        assert min(place.propensity for place in got) > 0 and max(place.propensity for place in got) <= 1
