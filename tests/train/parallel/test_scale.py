"""1,024 ranks that are not there (torch's `fake` group): each mesh builds, and its collectives are those of the formulas."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ... import verbs

WIDTH, DEPTH, HIDDEN, VOCAB, LENGTH, ROWS = 64, 2, 192, 512, 16, 2  # of fake.py
BLOCK = [(WIDTH, WIDTH)] * 4 + [(HIDDEN, WIDTH)] * 2 + [(WIDTH, HIDDEN), (WIDTH,), (WIDTH,)]
ROOT = [(VOCAB, WIDTH), (WIDTH,)]
COLUMNS = [True, True, True, False, True, True, False, None, None]  # dim 0 split, dim 1, not: as BLOCK is ordered
STREAM, LOGITS = 4 * ROWS * LENGTH * WIDTH, 4 * ROWS * LENGTH * VOCAB
CASES = [
    {"parallel": "data=1024"},
    {"parallel": "shard=1024"},
    {"parallel": "data=16,shard=64", "passes": 3},
    {"parallel": "data=16,shard=64", "passes": 3, "sharding": "states"},
    {"parallel": "shard=1024", "precision": "bf16"},
    {"parallel": "data=128,tensor=8"},
    {"parallel": "shard=128,tensor=8", "recompute": True},
    {"parallel": "data=8,shard=16,tensor=8", "passes": 2},
]


@pytest.fixture(scope="module")
def found():
    done = verbs.python(Path(__file__).with_name("fake.py"), json.dumps(CASES))
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip([str(case) for case in CASES], json.loads(done.stdout), strict=True))


def split_by(tensors, columns, ranks):
    """Shapes that one of `ranks` holds."""
    kept = []
    for shape, is_column in zip(tensors, columns, strict=True):
        dim = None if is_column is None else 0 if is_column else 1
        kept.append(tuple(size // ranks if at == dim else size for at, size in enumerate(shape)))
    return kept


def padded(shapes, ranks):
    """Bytes of a unit whose first dims are cut into equal parts."""
    total = 0
    for first, *rest in shapes:
        total += ranks * -(-first // ranks) * (rest[0] if rest else 1)
    return 4 * total


@pytest.mark.parametrize("case", CASES, ids=str)
def test_collectives_of_a_step_are_those_of_the_formulas(found, case):
    axes = {axis: int(size) for axis, size in (part.split("=") for part in case["parallel"].split(","))}
    data, shard, tensor = (axes.get(axis, 1) for axis in ("data", "shard", "tensor"))
    passes, blocks = case.get("passes", 1), DEPTH
    result = found[str(case)]
    block, root = split_by(BLOCK, COLUMNS, tensor), split_by(ROOT, [True, None], tensor)
    keeps = case.get("sharding") == "states"

    expected = Counter()
    if shard > 1:
        block_bytes, root_bytes = padded(block, shard), padded(root, shard)
        fetches = 1 if keeps else 2 * passes
        fetched = 2 if case.get("precision") == "bf16" else 1  # weights travel as bf16, gradients as f32
        expected["_allgather_base_", block_bytes // fetched, shard] += blocks * fetches
        expected["_allgather_base_", root_bytes // fetched, shard] += 1 if keeps else passes
        expected["alltoall_base_", block_bytes, shard] += blocks * (1 if keeps else passes)
        expected["alltoall_base_", root_bytes, shard] += 1 if keeps else passes
    if tensor > 1:
        again = 2 * blocks - blocks if case.get("recompute") else 0  # what follows the last sum of a block is not needed again
        expected["allreduce_", STREAM, tensor] += passes * (2 * (2 * blocks + 1) + again)
        expected["allgather_", LOGITS, tensor] += passes
    assert Counter(tuple(call) for call in result["compute"]) == expected

    held = sum((-(-first // shard)) * (rest[0] if rest else 1) for first, *rest in block * blocks + root)
    assert result["held"] == held  # the first rank's part is never the smaller one
    reduced = Counter({("allreduce_", 16, data * shard): 1})
    if data > 1:
        reduced["allreduce_", 4 * held, data] += 1  # less than a bucket of 4 MB
    assert Counter(tuple(call) for call in result["reduce"]) == reduced
    assert result["part"] == [0, data * shard]
    assert sum(size for _, size, _ in result["clip"]) <= 64  # bytes
