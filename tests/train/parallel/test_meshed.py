"""Every mesh learns what one process learns: clip and decay on, micro-batches on, 12 steps of f32."""

import json
from pathlib import Path

import pytest

from gyral.engine import ranks

from ... import verbs

WORKER = str(Path(__file__).with_name("worker.py"))
LOSS, NORM = 2e-6, 1e-5
LM = {"task": "lm", "microbatch": 3}
TOWERS = {"task": "contrastive", "batch": 10}


def launched(folder, num, cases):
    """Results of cases trained one after the other by `num` processes."""
    ranks.launch([WORKER, str(folder), json.dumps(cases)], num, folder, {}, start=verbs.start)
    return json.loads((folder / "results.json").read_text())


def check(case, found):
    assert "error" not in found, (case, found)
    expected = found["expected"]
    assert len(found["losses"]) == 12 and (case["task"] != "lm" or found["losses"][-1] < found["losses"][0] - 0.1)
    far = max(abs(a - b) / max(b, 1.0) for a, b in zip(found["losses"], expected["losses"], strict=True))
    assert far <= LOSS * case.get("sharp", 1), case  # a loss of 14 is rounded to 1e-6
    assert max(abs(a - b) / b for a, b in zip(found["norms"], expected["norms"], strict=True)) <= NORM, case
    assert max(expected["norms"]) > 0.5  # so that the clip is at work
    assert found["names"] and found["weights"] <= 1e-4, case
    for here, there in zip(found["metrics"], expected["metrics"], strict=True):
        assert here.keys() == there.keys() and all(abs(here[name] - there[name]) <= 1e-5 for name in here), case


FAST = [
    {**LM, "parallel": "shard=2,tensor=2"},
    {**LM, "parallel": "data=2,shard=2", "microbatch": 1, "batch": 9},  # ranks with other numbers of passes
    {**LM, "parallel": "data=2,tensor=2", "kv_heads": 2, "recompute": True},
    {**TOWERS, "parallel": "shard=2,tensor=2"},
]
FOUR = [
    {**LM, "parallel": "data=4"},
    {**LM, "parallel": "shard=4"},
    {**LM, "parallel": "shard=4", "sharding": "states", "microbatch": 1, "batch": 9},
    {**LM, "parallel": "data=2,shard=2", "sharding": "states"},
    {**LM, "parallel": "shard=2,tensor=2", "sharding": "states", "tied": False, "recompute": True},
    {**LM, "parallel": "tensor=4", "tied": False},
    {**LM, "parallel": "tensor=4"},
    {**TOWERS, "parallel": "data=4"},
    {**TOWERS, "parallel": "data=2,shard=2"},
    {**TOWERS, "parallel": "data=2,tensor=2"},
]
TWO = [
    {**LM, "parallel": "data=2"},
    {**LM, "parallel": "shard=2"},
    {**LM, "parallel": "shard=2", "sharding": "states"},
    {**LM, "parallel": "tensor=2"},
    {**LM, "parallel": "tensor=2", "tied": False, "kv_heads": 2},
    {**LM, "parallel": "shard=2", "recompute": True, "microbatch": 1, "batch": 7},
    {**TOWERS, "parallel": "data=2"},
    {**TOWERS, "parallel": "shard=2"},
    {**TOWERS, "parallel": "tensor=2"},
]
PAIRS = {"task": "pairs", "batch": 10}
MASKED, TAUGHT = {"task": "masked", "batch": 10, "microbatch": 3}, {"task": "self_distilled", "batch": 10, "sharp": 2}
"""Its logits are divided by .04, and what rounding did to them is as much larger."""
PICTURES_OF_TWO = [
    {**PAIRS, "parallel": "data=2"},
    {**PAIRS, "parallel": "data=2", "loss": "clip"},
    {**PAIRS, "parallel": "shard=2"},
    {**PAIRS, "parallel": "shard=2", "sharding": "states"},
    {**PAIRS, "parallel": "tensor=2"},
    {**MASKED, "parallel": "data=2"},
    {**MASKED, "parallel": "shard=2", "recompute": True},
    {**MASKED, "parallel": "tensor=2"},
    {**TAUGHT, "parallel": "data=2"},
    {**TAUGHT, "parallel": "shard=2"},
    {**TAUGHT, "parallel": "tensor=2"},
]
PICTURES_OF_FOUR = [
    {**PAIRS, "parallel": "data=4"},
    {**PAIRS, "parallel": "data=2,shard=2"},
    {**PAIRS, "parallel": "data=2,tensor=2"},
    {**PAIRS, "parallel": "shard=2,tensor=2", "loss": "clip"},
    {**PAIRS, "parallel": "tensor=4"},
    {**MASKED, "parallel": "shard=4", "sharding": "states"},
    {**MASKED, "parallel": "data=2,tensor=2"},
]


def test_meshes_of_four_learn_what_one_learns(tmp_path):
    unlike = {"task": "unlike", "parallel": "data=2,shard=2"}
    *learned, refused = launched(tmp_path, 4, [*FAST, unlike])
    for case, found in zip(FAST, learned, strict=True):
        check(case, found)
    assert (
        refused["error"] == "RankError"
        and refused["what"] == "ranks begin with other values of `layers.0.up.weight` and 7 more"
    )


@pytest.mark.slow
def test_bf16_stays_near_what_f32_learns(tmp_path):
    cases = [{**LM, "parallel": parallel, "precision": "bf16"} for parallel in ("data=2", "shard=2", "tensor=2")]
    cases += [{**TOWERS, "parallel": parallel, "precision": "bf16"} for parallel in ("data=2", "shard=2", "tensor=2")]
    for case, found in zip(cases, launched(tmp_path, 2, cases), strict=True):
        differences = [abs(a - b) for a, b in zip(found["losses"], found["expected"]["losses"], strict=True)]
        assert 1e-5 < max(differences) < 1e-2, case  # rounded, and no more


@pytest.mark.slow
@pytest.mark.parametrize(("num", "cases"), [(2, TWO), (4, FOUR), (2, PICTURES_OF_TWO), (4, PICTURES_OF_FOUR)])
def test_every_mesh_learns_what_one_learns(tmp_path, num, cases):
    for case, found in zip(cases, launched(tmp_path, num, cases), strict=True):
        check(case, found)
