"""Pipeline, context, expert and spread tables, alone and beside data, shard and tensor: what one process learns, they learn.

Every case trains 12 fp32 steps with clipping, decay and micro-batches, targets unequal over rows,
and is compared with one process. One launch of ranks runs many cases, because starting them costs more than the cases do.
"""

import json
from pathlib import Path

import pytest

from gyral.engine import ranks

from ... import verbs

WORKER = str(Path(__file__).with_name("pieces_worker.py"))
TOLERANCE = 2e-6
KEPT_OUT = 2e-4
"""Of metrics on what is kept aside: an expert chosen otherwise by rounding moves a token."""


def launch(folder, num, cases):
    """Results of cases, by `num` ranks that meet through a file."""
    ranks.launch([WORKER, str(folder), json.dumps(cases)], num, folder, {}, start=verbs.start)
    return json.loads((folder / "results.json").read_text())


def judge(case, found):
    expected = found["expected"]
    assert len(found["losses"]) == len(expected["losses"]) == case.get("steps", 12)
    apart = max(abs(a - b) for a, b in zip(found["losses"], expected["losses"], strict=True))
    assert apart <= TOLERANCE, (case, apart)
    least = 0.9 if len(expected["losses"]) == 12 else 0.95
    assert sum(expected["losses"][-3:]) < least * sum(expected["losses"][:3]), "nothing was learned"
    for norm, other in zip(found["norms"], expected["norms"], strict=True):
        assert norm == pytest.approx(other, rel=5e-6), case
    assert found["right"] == expected["right"]
    for metrics, others in zip(found["metrics"], expected["metrics"], strict=True):
        assert metrics == pytest.approx(others, abs=KEPT_OUT), case
    assert found["names"] and found["weights"] < 1e-4, case


def lm(parallel, microbatch=1, **words):
    return {"task": "lm", "parallel": parallel, "microbatch": microbatch, **words}


def experts(parallel, microbatch=1, **words):
    return {"task": "experts", "parallel": parallel, "microbatch": microbatch, **words}


def clicks(parallel, tables, microbatch=3, **words):
    return {
        "task": "clicks",
        "parallel": parallel,
        "microbatch": microbatch,
        "tables": tables,
        "rate": 0.05,
        "batch": 24,
        **words,
    }


ROWWISE = {"tables": "rowwise_adagrad", "table_rate": 0.1}


def objects(net, parallel, tables="row", microbatch=3, **words):
    """Next objects by full softmax, or by a sampled one with `negatives`."""
    return {"task": net, "parallel": parallel, "microbatch": microbatch, "rate": 0.02, "tables": tables, **words}


TWO = [
    lm("pipeline=2", microbatch=3, tied=False),
    lm("pipeline=2", schedule="zbv", depth=4),
    lm("context=2", microbatch=3),
    experts("expert=2", microbatch=3),
    clicks("data=2", "row", batch=25),
    clicks("data=2", "replicate", batch=25, optim=ROWWISE),
    objects("sasrec", "data=2"),
    objects("hstu", "data=2", negatives=5, optim=ROWWISE, follows_rows=True),
]
FOUR = [
    lm("pipeline=2,tensor=2", microbatch=3),
    lm("shard=2,context=2", microbatch=2),
    experts("data=2,expert=2"),
    objects("sasrec", "data=2,tensor=2", microbatch=2, optim=ROWWISE),
]
SLOW_TWO = [
    objects("sasrec", "data=2", optim=ROWWISE),
    objects("sasrec", "data=2", "replicate", optim=ROWWISE),
    objects("sasrec", "data=2", "replicate", negatives=5, optim=ROWWISE),
    objects("sasrec", "data=2", "column"),
    objects("hstu", "data=2", "table", optim=ROWWISE),
    objects("sasrec", "shard=2"),
    objects("sasrec", "shard=2", "replicate", optim=ROWWISE),
    objects("sasrec", "tensor=2", "replicate", optim=ROWWISE),
    objects("hstu", "tensor=2", "replicate"),
    clicks("data=2", "row", optim=ROWWISE),
    clicks("data=2", "column", optim=ROWWISE),
    clicks("data=2", "table", optim=ROWWISE),
    clicks("shard=2", "row", optim=ROWWISE, sharding="states"),
    clicks("tensor=2", "replicate", optim=ROWWISE),
    clicks("data=2", "column"),
    clicks("data=2", "table"),
    lm("pipeline=2", microbatch=0),
    lm("pipeline=2", microbatch=0, batch=7),
    lm("pipeline=2", schedule="gpipe"),
    lm("pipeline=2", schedule="interleaved", depth=5),
    lm("pipeline=2", schedule="zero-bubble", depth=4, tied=False),
    lm("pipeline=2", microbatch=2, kv_heads=4, recompute=True),
    experts("pipeline=2", microbatch=3),
    experts("pipeline=2", schedule="zero-bubble", depth=4),
    experts("context=2", microbatch=3),
    experts("expert=2", batch=9, microbatch=2),
    lm("context=2", microbatch=0, kv_heads=4),
    clicks("shard=2", "row"),
    clicks("shard=2", "table", sharding="states"),
]
SLOW_FOUR = [
    lm("pipeline=2,data=2"),
    clicks("data=2,shard=2", "row"),
    lm("pipeline=4", depth=4, microbatch=1),
    lm("pipeline=2,shard=2"),
    lm("pipeline=2,shard=2", sharding="states"),
    lm("pipeline=2,shard=2", schedule="interleaved", depth=4),
    lm("pipeline=2,tensor=2", schedule="zbv", depth=4),
    lm("pipeline=2,data=2", schedule="zbv", depth=4),
    lm("pipeline=2,context=2", microbatch=2),
    lm("context=4", microbatch=3),
    lm("context=2,tensor=2", microbatch=2),
    lm("data=2,context=2", microbatch=2),
    experts("shard=2,expert=2"),
    experts("expert=4", microbatch=2),
    experts("context=2,expert=2", microbatch=3),
    experts("pipeline=2,expert=2"),
    experts("pipeline=2,data=2", microbatch=2),
    experts("shard=2,context=2"),
    experts("data=2,tensor=2"),
    experts("expert=2,tensor=2"),
    clicks("data=4", "column"),
    clicks("data=2,shard=2", "table"),
    clicks("shard=4", "row", batch=26),
    objects("sasrec", "data=4", microbatch=1),
    objects("sasrec", "data=2,tensor=2", microbatch=2),
    objects("sasrec", "data=2,tensor=2", microbatch=2, negatives=5, optim=ROWWISE),
    objects("hstu", "data=2,tensor=2", "table", microbatch=2, optim=ROWWISE),
    objects("sasrec", "data=2,shard=2", microbatch=2, optim=ROWWISE),
    objects("sasrec", "shard=2,tensor=2", microbatch=2, optim=ROWWISE),
    clicks("data=2,tensor=2", "column", optim=ROWWISE),
    clicks("shard=2,tensor=2", "table"),
    clicks("shard=2,tensor=2", "row", optim=ROWWISE),
]
REFUSED = [
    (lm("pipeline=2", schedule="interleaved"), "2 blocks are fewer than 4 stages"),
    (lm("expert=2"), "this model has no experts"),
    (clicks("pipeline=2", "replicate"), "this model has no blocks"),
    (clicks("context=2", "replicate"), "no sequence that could be cut"),
    (lm("context=2", length=22), "a sequence of 22 cannot be cut into 4 equal pieces"),
    (lm("data=2", tables="row"), "this model has no tables"),
    (clicks("tensor=2", "row"), "tables are spread over `data` and `shard`"),
    (objects("sasrec", "pipeline=2"), "tables cannot be spread over a mesh with `pipeline`"),
    (objects("sasrec", "tensor=2", heads=1), "does not divide the model's 1 heads"),
]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """What two ranks found, in one launch."""
    return launch(tmp_path_factory.mktemp("two"), 2, TWO + [case for case, _ in REFUSED])


def test_two_ranks_learn_what_one_process_learns(by_two):
    for case, found in zip(TWO, by_two, strict=False):
        judge(case, found)


def test_what_cannot_be_cut_is_refused(by_two):
    for (case, what), found in zip(REFUSED, by_two[len(TWO) :], strict=True):
        assert what in found.get("what", ""), (case, found)
        assert found["error"] == "ConfigError" and found["hint"]


def test_four_ranks_learn_what_one_process_learns(tmp_path):
    attention, *results = launch(tmp_path, 4, [{"task": "attention"}, *FOUR])
    assert max(attention["apart"].values()) < 2e-6, "documents of a cut sequence see what they see in a whole one"
    for case, found in zip(FOUR, results, strict=True):
        judge(case, found)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("num", [2, 4])
def test_more_of_them_do(num, tmp_path):
    cases = {2: SLOW_TWO, 4: SLOW_FOUR}[num]
    for case, found in zip(cases, launch(tmp_path, num, cases), strict=True):
        judge(case, found)
