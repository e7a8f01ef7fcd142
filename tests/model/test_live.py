"""The recommender of visits: gradients against differences, a past against plain Python, answers against arithmetic."""

import numpy as np
import pytest

from gyral.model.live import tables as t
from gyral.model.live import visits as v
from gyral.model.live.known import Known, top
from gyral.model.live.visits import Objects


def made(seed=0, num=12, dim=5, subjects=3):
    g = np.random.default_rng(seed)
    objects = Objects(*(g.normal(0, 0.5, shape) for shape in ((num, dim), num, num, num)))
    rows = np.zeros((subjects, v.PAST_WIDTH), np.float32)
    for row in range(1, subjects):  # the first has no past
        for visit in range(row + 1):
            codes = np.unique(g.integers(0, num, 4))
            rows[row] = v.remembered(rows[row], codes, 100 + 30 * visit, len(codes))
    past = v.past_of(rows, np.full(subjects, 200.0))
    r_VD, p_BE = g.normal(0, 0.5, (num, dim)), g.normal(0, 0.5, (subjects, dim + 1))
    small = g.normal(0, 0.3, v.NUM_SMALL)
    taken = [np.unique(g.integers(0, num, 3)) for _ in range(subjects)]
    return objects, past, r_VD, p_BE, small, taken


def total(objects, past, r_VD, p_BE, small, taken):
    """The loss by its definition, one visit after the other."""
    loss = 0.0
    for row, places in enumerate(taken):
        mine = np.flatnonzero(past.owner_N == row)
        x = p_BE[row, :-1] + (r_VD[past.code_N[mine]].sum(0) / np.sqrt(len(mine)) if len(mine) else 0)
        power = 1 + small[v.POPULAR_WARM if len(mine) else v.POPULAR_COLD]
        s = objects.q_VD @ x + objects.b_V + power * objects.lately_V
        for at in mine:
            s[past.code_N[at]] += small[past.small_N3[at]].sum() + objects.again_V[past.code_N[at]] + p_BE[row, -1]
        log_p = s - np.log(np.exp(s).sum())
        loss -= log_p[places].mean() * min(len(places), 20) ** 0.5
    return loss


def test_gradients_are_those_of_the_loss():
    objects, past, r_VD, p_BE, small, taken = made()
    g = v.learn(objects, past, r_VD[past.code_N], p_BE, small, taken)
    by_code = np.zeros_like(r_VD)
    np.add.at(by_code, past.code_N, g.r_ND)
    for values, gradient in (
        (objects.q_VD, g.q_CD), (objects.b_V, g.b_C), (objects.again_V, g.again_C), (r_VD, by_code), (p_BE, g.p_BE),
        (small, g.small_S),
    ):  # fmt: skip
        flat, found = values.reshape(-1), gradient.reshape(-1)
        for at in range(0, len(flat), 3):
            before = flat[at]
            sides = []
            for step in (1e-4, -1e-4):
                flat[at] = before + step
                sides.append(total(objects, past, r_VD, p_BE, small, taken))
            flat[at] = before
            assert (sides[0] - sides[1]) / 2e-4 == pytest.approx(float(found[at]), abs=2e-4)


def test_a_past_keeps_what_plain_python_would():
    g = np.random.default_rng(1)
    row, plain, visits = np.zeros(v.PAST_WIDTH, np.float32), {}, 0
    for hour in range(0, 4_000, 37):
        codes = np.unique(g.integers(0, 500, 20))
        row = v.remembered(row, codes, hour, len(codes))
        visits += 1
        for code in codes.tolist():
            count = plain.pop(code, (0, 0))[0]  # what is met again goes to the end
            plain[code] = (count + 1, hour)
        plain = dict(list(plain.items())[-v.PAST :])
        num = int(row[0])
        held = [row[v.HEAD + at * v.PAST : v.HEAD + at * v.PAST + num].astype(int).tolist() for at in range(3)]
        assert held[0] == list(plain) and list(zip(*held[1:], strict=True)) == list(plain.values())
    assert row[3] == visits and row[1] == hour


def test_a_difference_sets_a_row_exactly():
    """Facts are whole numbers below 2²⁴, so w − 1 · (w − new) is new, bit for bit."""
    g = np.random.default_rng(2)
    before, after = (g.integers(0, 1 << 24, 10_000).astype(np.float32) for _ in range(2))
    assert np.array_equal(before - np.float32(1) * (before - after), after)


def test_popularity_halves_with_age_and_counts_for_ever():
    seen = np.zeros((2, 3), np.float32)
    seen = v.seen_more(seen, np.array([8, 1], np.float32), 1_000)
    seen = v.seen_more(seen, np.array([0, 2], np.float32), 1_000 + v.HALF_LIFE_H)
    assert seen[:, 0].tolist() == [8, 3] and seen[:, 1].tolist() == [4, 2.5]
    late = v.seen_more(seen, np.array([1, 0], np.float32), 1_000)  # an event that is ten days late
    assert late[0].tolist() == [9, 4.5, 1_000 + v.HALF_LIFE_H]
    assert np.allclose(v.lately(seen, 1_000 + 2 * v.HALF_LIFE_H), np.log1p([2, 1.25]))


def test_answers_are_the_scores_of_the_arithmetic_and_frozen_copies_give_the_same():
    objects, _, r_VD, p_BE, small, _ = made(num=40, dim=4)
    known = Known(4)
    known.name([f"o{at}" for at in range(40)], [""] * 40)
    codes = np.arange(40)
    known.put(t.ITEM, codes, objects.q_VD.astype(np.float32))
    known.put(t.BIAS, codes, np.column_stack([objects.b_V, objects.again_V]).astype(np.float32))
    known.put(t.MET, codes, r_VD.astype(np.float32))
    known.put(t.SMALL, np.zeros(1, np.int64), small[None].astype(np.float32))
    known.put(t.SEEN, codes, v.seen_more(np.zeros((40, 3), np.float32), codes.astype(np.float32), 50))
    key = t.key_of("ann")
    past = v.remembered(np.zeros(v.PAST_WIDTH, np.float32), np.array([3, 7]), 40, 2)
    known.put(t.PAST, np.array([key]), past[None])
    known.put(t.SUBJECT, np.array([key]), p_BE[:1].astype(np.float32))
    assert len(known.view.r_VD) == 0  # nothing is seen before the flip
    known.hour = 60
    known.flip()
    best, scores, is_known = known.recommend(key, 5, [])
    flat = v.past_of(past[None], np.array([60.0]))
    lately = np.log1p(codes * 2 ** (-10 / v.HALF_LIFE_H))
    s = objects.q_VD @ (p_BE[0, :-1] + r_VD[[3, 7]].sum(0) / np.sqrt(2)) + objects.b_V + (1 + small[v.POPULAR_WARM]) * lately
    for at, code in enumerate((3, 7)):
        s[code] += small[flat.small_N3[at]].sum() + objects.again_V[code] + p_BE[0, -1]
    assert is_known and best.tolist() == np.argsort(-s)[:5].tolist() and np.allclose(scores, np.sort(s)[::-1][:5], atol=1e-4)
    assert not known.recommend(t.key_of("bob"), 5, [])[2] and known.recommend(t.key_of("bob"), 5, ["o3", "nothing"])[2]
    assert known.popular(3)[0].tolist() == [39, 38, 37]
    settings = {"dim": 4, "names": known.names, "titles": known.titles, "hour": 60}
    copy = Known.of(known.arrays(), settings)
    assert copy.recommend(key, 5, [])[1].tolist() == scores.tolist()
    known.gone(t.PAST, np.array([key]))
    assert not known.recommend(key, 5, [])[2] and copy.recommend(key, 5, [])[2]


def test_the_best_are_in_order_and_ties_go_to_the_lower():
    scores = np.array([1, 5, 5, 2, 5, 0], np.float32)
    assert top(scores, 4).tolist() == [1, 2, 4, 3] and top(scores, 99).tolist() == [1, 2, 4, 3, 0, 5]
    assert top(scores[:0], 3).tolist() == []
