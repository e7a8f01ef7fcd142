from collections import defaultdict
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.curate.near import pairs_kernel

SETS = st.lists(st.sets(st.integers(0, 30), max_size=20), min_size=2, max_size=6)


@settings(deadline=None)
@given(SETS, st.sampled_from([0.1, 0.5, 2 / 3, 0.8, 1.0]))
def test_jaccards_are_those_of_sets(sets, floor):
    hashes = np.array([value for each in sets for value in sorted(each)], np.uint64)
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in sets])]).astype(np.int64)
    left, right = np.array(list(combinations(range(len(sets)), 2)), np.int64).T.copy()
    out = np.empty(len(left), np.float32)
    pairs_kernel.jaccards(hashes, offsets, left, right, floor, out)
    for one, other, jaccard in zip(left, right, out.tolist(), strict=True):
        union = sets[one] | sets[other]
        true = len(sets[one] & sets[other]) / len(union) if union else 0.0
        assert jaccard == (np.float32(true) if true >= floor - 1e-9 else 0.0)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), max_size=40), st.integers(2, 9))
def test_buckets_become_pairs(rows, bucket):
    keys = np.array([[key * 0x0503_0000_0000_0000 + 1 for key in row] for row in rows], np.uint64).reshape(-1, 3)
    nodes = np.arange(10, 10 + len(rows), dtype=np.uint32)
    starts, out_keys, out_nodes = np.zeros(65, np.int64), np.empty(keys.size, np.uint64), np.empty(keys.size, np.uint32)
    pairs_kernel.scatter(keys, nodes, np.uint64(58), starts, out_keys, out_nodes)
    for part in range(64):
        mine = slice(starts[part], starts[part + 1])
        expected = [
            (key, node) for row, node in zip(keys.tolist(), nodes.tolist(), strict=True) for key in row if key >> 58 == part
        ]
        assert list(zip(out_keys[mine].tolist(), out_nodes[mine].tolist(), strict=True)) == expected

    members = defaultdict(list)
    for row, node in zip(keys.tolist(), nodes.tolist(), strict=True):
        for key in row:
            members[key].append(node)
    order = np.argsort(out_keys, kind="stable")
    keys, nodes = out_keys[order], out_nodes[order]
    num, num_large = pairs_kernel.count_pairs(keys, bucket) if len(keys) else (0, 0)
    pairs, large = np.empty(num, np.uint64), np.empty((num_large, 2), np.int64)
    num = pairs_kernel.fill_pairs(keys, nodes, bucket, pairs, large)
    small = [sorted(each) for each in members.values() if len(each) <= bucket]
    expected = {a << 32 | b for each in small for a, b in combinations(each, 2) if a != b}
    assert set(pairs[:num].tolist()) == expected
    assert [sorted(nodes[begin:end].tolist()) for begin, end in large] == [
        sorted(members[key]) for key in sorted(members) if len(members[key]) > bucket
    ]
