import numpy as np

from gyral.curate.near import pairs_kernel
from gyral.curate.near.known import KnownPairs


def test_it_is_a_dict_that_lasts(tmp_path):
    rng, expected = np.random.default_rng(1), {}
    for size in (100, 1, 30, 3, 500, 2, 2, 2, 60):
        first, second = rng.integers(0, 1 << 63, (2, size), dtype=np.uint64)
        jaccard = rng.random(size).astype(np.float32)
        KnownPairs(tmp_path).store(first, second, jaccard)
        expected |= dict(zip(zip(first.tolist(), second.tolist(), strict=True), jaccard.tolist(), strict=True))
        assert KnownPairs(tmp_path).num_pairs == len(expected)
    known = KnownPairs(tmp_path)
    first, second = (np.array(column, np.uint64) for column in zip(*expected, strict=True))
    assert known.find(first, second).tolist() == list(expected.values())
    assert np.isnan(known.find(first, second + np.uint64(1))).all()
    assert np.isnan(known.find(first[:5] + np.uint64(1), second[:5])).all()
    assert len(list(tmp_path.iterdir())) <= 4


def test_small_additions_make_few_segments(tmp_path):
    known = KnownPairs(tmp_path)
    for number in range(70):
        one = np.array([number], np.uint64)
        known.store(one, one, np.array([number], np.float32))
        assert len(list(tmp_path.iterdir())) <= 8
    assert known.find(*[np.arange(71, dtype=np.uint64)] * 2)[:70].tolist() == list(range(70))
    known.store(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.float32))
    assert known.num_pairs == KnownPairs(tmp_path).num_pairs == 70


def test_a_pair_has_one_name_whichever_comes_first():
    rng = np.random.default_rng(2)
    one, other = rng.integers(0, 4, (2, 500, 2), dtype=np.uint64)
    names = list(zip(*(name.tolist() for name in pairs_kernel.pair_keys(one, other)), strict=True))
    assert names == list(zip(*(name.tolist() for name in pairs_kernel.pair_keys(other, one)), strict=True))
    pairs = [frozenset((tuple(a), tuple(b))) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert len(set(names)) == len(set(pairs)) > 100
