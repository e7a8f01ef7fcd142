"""Predicted steps are published ones, left out of what was calibrated; collectives are those that 1,024 ranks make."""

import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from msgspec.structs import replace

from gyral.errors import ConfigError, InputError, NotFound
from gyral.model.nets import llama
from gyral.plan import counters
from gyral.plan.axes import ADAM, SHARDED_ADAM, Layout
from gyral.plan.calibrate import calibrate
from gyral.plan.counters import Transformer, flops
from gyral.plan.hardware import DEVICES, Rates, device
from gyral.plan.machine import Machine
from gyral.plan.memory import held_params
from gyral.plan.operations import Matmul, Walk, block_operations, head_operations
from gyral.plan.steptime import exchange_s, step_time

from .. import verbs
from . import published

STEPS = published.rows("megatron_steptime_8.csv")
A100 = Machine(DEVICES["a100-80"])


def test_megatrons_steps_with_a_model_left_out_are_predicted_by_one_constant():
    """Calculon, whose curves are set by hand: 3.65 % on average, 8.87 % at most."""
    found = []
    for model in published.MEGATRON:
        known = [row for row in STEPS if row["model"] != model]
        asked = [row for row in STEPS if row["model"] == model]
        truth = [float(row["step_s"]) for row in known]
        rates = calibrate(lambda rates, known=known: published.megatron_s(known, rates), truth, ["matmul"]).rates
        found += published.off(published.megatron_s(asked, rates), [float(row["step_s"]) for row in asked])
    assert len(found) == 8
    assert statistics.mean(found) < 0.03 and max(found) < 0.06


def test_the_rates_that_stand_there_are_the_calibrated_ones():
    truth = [float(row["step_s"]) for row in STEPS]
    found = calibrate(lambda rates: published.megatron_s(STEPS, rates), truth, ["matmul"])
    assert found.rates.matmul == pytest.approx(Rates().matmul, rel=0.01)
    assert found.mean < 0.025


def test_128_devices_are_predicted_from_fewer_better_than_by_one_utilization():
    rows = [row for row in published.rows("llmfoundry_a100.csv") if row["GPU"] == "a100_40gb"]
    known, asked = ([row for row in rows if (int(row["# GPUs"]) >= 128) == large] for large in (False, True))
    assert (len(known), len(asked)) == (69, 9)
    truth = [published.foundry_truth(row) for row in known]
    fitted = calibrate(lambda rates: published.foundry_s(known, rates), truth, ["matmul", "attention", "memory"])
    found = statistics.mean(published.off(published.foundry_s(asked, fitted.rates), map(published.foundry_truth, asked)))
    usual = statistics.median(float(row["MFU"]) for row in known)
    constant = statistics.mean(abs(float(row["MFU"]) / usual - 1) for row in asked)
    assert found < 0.06 < constant
    assert fitted.mean < 0.05


SHAPE = llama.Shape(512, 64, 2, 8, 8, 192)
LENGTH, ROWS = 16, 2  # of fake.py
TRACED = [
    {"parallel": "data=64,shard=16", "passes": 3},
    {"parallel": "data=64,shard=16", "passes": 3, "sharding": "states"},
    {"parallel": "data=128,tensor=8"},
    {"parallel": "data=32,shard=16,tensor=2", "passes": 2},
]


class Counting:
    """A timer whose seconds are bytes."""

    hidden = 0.0
    by = "counted"

    def __init__(self):
        self.gathered = {}

    def matmul_s(self, each, number_bytes):
        return 0.0

    def walk_s(self, each):
        return 0.0

    def send_s(self, size_bytes, apart):
        return 0.0

    def gather_s(self, size_bytes, ranks, apart=1):
        return size_bytes


@pytest.fixture(scope="module")
def traced():
    done = verbs.python(Path(__file__).parents[1] / "train" / "parallel" / "fake.py", json.dumps(TRACED))
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip([str(case) for case in TRACED], json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("case", TRACED, ids=str)
def test_bytes_of_collectives_are_those_that_a_rank_of_1024_makes(traced, case):
    axes = {axis: int(size) for axis, size in (part.split("=") for part in case["parallel"].split(","))}
    passes = case.get("passes", 1)
    layout = Layout(
        batch=ROWS * passes * axes.get("data", 1) * axes.get("shard", 1), microbatch=ROWS,
        zero=1 if case.get("sharding") == "states" else 3, **axes,
    )  # fmt: skip
    model = counters.llama(SHAPE, LENGTH)
    calls = traced[str(case)]["compute"] + traced[str(case)]["reduce"]
    by_ranks = {}
    for name, size, ranks in calls:
        if size <= 64 or (name == "allgather_" and ranks == axes.get("tensor")):
            continue  # sums of losses; logits, which gyral gathers and others leave apart
        by_ranks[ranks] = by_ranks.get(ranks, 0) + size * (2 if name == "allreduce_" else 1)
    expected = exchange_s(model, layout, Counting(), ADAM, 0.0) + step_time(model, layout, Counting(), ADAM).tensor
    if layout.tensor > 1:  # outside of blocks: an embedding's sum, and that of the gradient of logits
        expected += 2 * 2 * ROWS * LENGTH * SHAPE.width * 4 * passes
    if layout.shard > 1 and layout.zero == 3:  # what is outside of blocks stays from forward to backward
        expected -= passes * 4 * (model.vocab / layout.tensor + 1) * model.width
    assert sum(by_ranks.values()) == expected
    assert traced[str(case)]["held"] == held_params(model, layout) / layout.shard


def test_products_of_a_block_are_its_flops():
    for flash in (False, True):
        model, layout = published.megatron("gpt3-175B", "full")
        layout = replace(layout, flash=flash)
        (forward, _), (backward, _), (again, _) = block_operations(model, layout)
        head, head_back = head_operations(model, layout)
        told = flops(model, layout.microbatch, "full", skips=flash)
        blocks, t = model.depth, layout.tensor
        assert t * (blocks * flop(forward) + flop(head[0])) == pytest.approx(told.forward)
        assert t * blocks * flop(again) == pytest.approx(told.recomputed)
        more = 0.5 * told.attention if flash else 0.0  # scores again
        assert t * (blocks * flop(backward) + flop(head_back[0])) == pytest.approx(told.backward + more)


def flop(products):
    return sum(each.flops for each in products)


def test_half_a_round_of_tiles_takes_a_whole_one():
    full = Matmul(1e12, 0.0, 1.0, 128 * 108, 256)
    assert A100.filled(full) == 1.0
    assert A100.filled(full._replace(rows=128 * 109)) == pytest.approx(109 / (2 * 108), rel=0.35)
    assert A100.filled(full._replace(rows=128 * 109)) < 0.8
    assert A100.matmul_s(full, 2) == pytest.approx(1e12 / (312e12 * A100.rates.matmul) + A100.rates.launch_s)
    assert A100.walk_s(Walk(2.039e12 * 0.8, 0)) == pytest.approx(1.0)


def test_a_ring_leaves_a_machine_by_all_of_its_networks():
    rates, inside = A100.rates, A100.device.link * A100.rates.link
    assert A100.rate(8) == inside
    assert A100.rate(16) == pytest.approx(8 * 25e9 * rates.network)
    assert A100.rate(16, apart=8) == pytest.approx(25e9 * rates.network)
    assert A100.gather_s(1.0, 1) == 0.0


def test_input_that_is_slower_than_the_step_is_waited_for():
    found = step_time(*published.megatron("gpt3-175B", "seqsel"), A100, dropout=True)
    late = step_time(*published.megatron("gpt3-175B", "seqsel"), A100, dropout=True, input_s=found.total + 3)
    early = step_time(*published.megatron("gpt3-175B", "seqsel"), A100, dropout=True, input_s=found.total - 3)
    assert found.input == 0 and early.total == pytest.approx(found.total)
    assert late.input == pytest.approx(3) and late.total == pytest.approx(found.total + 3)
    low, high = found.figure(A100.by).interval
    assert low < found.total < high and found.figure("sheet").high > high


@given(
    tensor=some.sampled_from([1, 2, 4, 8]), pipeline=some.sampled_from([1, 2, 4]),
    recompute=some.sampled_from(["none", "full"]), name=some.sampled_from(sorted(DEVICES)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_step_is_never_faster_than_its_flops_and_parts_add_up(tensor, pipeline, recompute, name):
    model = Transformer(depth=8, width=1024, heads=16, hidden=4096, length=1024, vocab=32000)
    layout = Layout(batch=16, tensor=tensor, pipeline=pipeline, recompute=recompute)
    machine = Machine(DEVICES[name])
    found = step_time(model, layout, machine, SHARDED_ADAM)
    assert found.total == pytest.approx(sum(found)) and min(found) >= 0
    assert found.total > flops(model, 16, recompute).hardware / (layout.ranks * machine.device.half)
    assert (found.pipeline > 0) == (pipeline > 1) and (found.tensor > 0) == (tensor > 1)
    assert (found.recompute > 0) == (recompute == "full")
    again = step_time(model, replace(layout, batch=32), machine, SHARDED_ADAM)
    assert found.total < again.total < 2 * found.total


def test_rates_that_made_times_are_found_again():
    true = Rates(matmul=0.61, memory=0.47)
    truth = published.megatron_s(STEPS, true)
    found = calibrate(lambda rates: published.megatron_s(STEPS, rates), truth, ["matmul", "memory"])
    assert (found.rates.matmul, found.rates.memory) == pytest.approx((0.61, 0.47), rel=1e-3)
    assert found.worst < 1e-4
    with pytest.raises(InputError, match="cannot be calibrated"):
        calibrate(lambda rates: published.megatron_s(STEPS[:1], rates), truth[:1], ["matmul", "memory"])


def test_what_cannot_be_is_refused():
    model, layout = published.megatron("gpt3-175B", "none")
    for change, why in (
        ({"tensor": 7}, "does not divide"),
        ({"batch": 63}, "by whole rounds"),
        ({"batch": 4, "interleave": 1}, "do not fill"),
        ({"pipeline": 97, "interleave": 1, "batch": 970}, "do not go into"),
        ({"microbatch": 5}, "do not go into"),
    ):
        with pytest.raises(ConfigError) as caught:
            step_time(model, replace(layout, **change), A100)
        assert why in caught.value.why
    with pytest.raises(NotFound, match="a100"):
        device("a100-8")
