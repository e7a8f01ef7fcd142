"""Bytes are those of the published formulas and figures, of gyral's own ranks, and of what torch saves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from msgspec.structs import replace

from gyral.config.training import Train
from gyral.model.nets import gpt2, llama
from gyral.plan import counters
from gyral.plan.axes import ADAM, MIXED_ADAM, MUON, SHARDED_ADAM, Layout, rows_bytes
from gyral.plan.counters import Transformer, params
from gyral.plan.memory import FRAGMENTED, block_activations, in_flight, memory
from gyral.train.parallel.limits import states_bytes

from . import published

ROWS = published.rows("megatron_memory_8.csv")
GIB = 2**30
FIGURE_7 = {  # Korthikanti et al. 2022: activations relative to none of it, in percent
    "megatron-22B": {"seq": 66.84, "sel": 49.42, "seqsel": 16.18, "full": 7.64},
    "gpt3-175B": {"seq": 62.04, "sel": 56.53, "seqsel": 18.49, "full": 8.71},
    "turing-530B": {"seq": 58.31, "sel": 62.04, "seqsel": 20.27, "full": 9.42},
    "megatron-1T": {"seq": 58.31, "sel": 62.04, "seqsel": 20.27, "full": 9.42},
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['mode']}")
def test_activations_are_those_of_megatrons_rows(row):
    model, layout = published.megatron(row["model"], row["mode"])
    found = memory(model, layout, MIXED_ADAM, dropout=True)
    assert found.activations / GIB == pytest.approx(float(row["act_gib"]), rel=1e-6)


@pytest.mark.parametrize("row", ROWS[::2], ids=lambda row: row["model"])
def test_parameters_and_optimizer_are_those_of_megatrons_rows(row):
    """The rows are of blocks alone: a stage in the middle; the first one has the embedding besides."""
    model, layout = published.megatron(row["model"], row["mode"])
    told, middle = float(row["param_opt_gib"]), layout.pipeline // 2
    embedding = 18 * (51200 / layout.tensor + 2048) * model.width
    blocks = memory(model, layout, stage=middle).states - (0 if middle else embedding)
    assert blocks / GIB == pytest.approx(told, rel=2e-3)
    everywhere = 18 * params(model).total / layout.ranks / GIB
    assert everywhere == pytest.approx(told, rel=0.03)
    assert memory(model, layout).states == pytest.approx(blocks + embedding)


@pytest.mark.parametrize("name", FIGURE_7)
def test_what_each_technique_leaves_is_what_the_figure_says(name):
    whole = block_activations(*published.megatron(name, "none"), dropout=True)
    for mode, percent in FIGURE_7[name].items():
        found = block_activations(*published.megatron(name, mode), dropout=True)
        assert 100 * found / whole == pytest.approx(percent, abs=0.15)  # read off a figure


def saved_bytes(block, *inputs):
    """Of tensors that the backward pass keeps, each once, without parameters and what is the same in all blocks."""
    kept, known = {}, {param.untyped_storage().data_ptr() for param in block.parameters()}
    known |= {each.untyped_storage().data_ptr() for each in inputs[1:]}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    held = []  # what was saved stays until it is counted: an address is not given twice
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(keep(tensor)) or tensor, lambda tensor: tensor):
        out = block(*inputs)
    assert out.requires_grad
    return sum(kept.values())


def test_activations_of_a_gpt_block_are_what_torch_saves():
    shape, rows, length = llama.Shape(512, 128, 1, 4, 4, 512), 2, 64
    block = gpt2.Gpt2(shape, length).blocks["0"]
    told = block_activations(counters.gpt2(shape, length), Layout(batch=rows, microbatch=rows), number_bytes=4)
    assert saved_bytes(block, torch.randn(rows, length, 128, requires_grad=True)) == pytest.approx(told, rel=0.01)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_activations_of_a_llama_block_are_what_torch_saves(kv_heads):
    shape, rows, length = llama.Shape(512, 128, 1, 4, kv_heads, 352), 2, 64
    block = llama.Llama(shape).blocks["0"]
    rotation = llama.rotation_of(torch.arange(length).expand(rows, length), 32, 10_000.0)
    told = block_activations(counters.llama(shape, length), Layout(batch=rows, microbatch=rows), number_bytes=4)
    found = saved_bytes(block, torch.randn(rows, length, 128, requires_grad=True), rotation)
    # products that share an input are one product here, of a copy of their weights
    copies = 4 * 128 * (128 + 2 * kv_heads * 32 + 2 * 352)
    assert found == pytest.approx(told + copies, rel=0.01)


@pytest.mark.parametrize("axes", [{}, {"data": 4}, {"shard": 8}, {"shard": 2, "tensor": 4}])
@pytest.mark.parametrize("sharding", ["weights", "states"])
def test_states_are_those_that_a_rank_of_gyral_train_is_told_to_need(axes, sharding):
    shape = llama.Shape(512, 64, 4, 8, 8, 192)
    with torch.device("meta"):
        module = llama.Llama(shape)
    layout = Layout(batch=64, zero=3 if sharding == "weights" else 1, **axes)
    found = memory(counters.llama(shape, 32), layout, ADAM)
    told = states_bytes(module, axes, Train(sharding=sharding))  # which splits norms over a tensor axis too
    assert found.states == pytest.approx(told, rel=0.02 if "tensor" in axes else 1e-9)


def test_each_stage_of_zero_divides_one_thing_more():
    model, plain = published.megatron("megatron-22B", "none")
    whole = memory(model, plain)
    for zero in (1, 2, 3):
        found = memory(model, replace(plain, batch=16, shard=4, zero=zero))
        split = [found.optimizer, found.gradients, found.weights]
        expected = [whole.optimizer, whole.gradients, whole.weights]
        assert split == [value / 4 if level < zero else value for level, value in enumerate(expected)]
        assert (found.working > whole.working) == (zero == 3)  # gathered weights


def test_bytes_of_a_table():
    assert rows_bytes(1000, 64) == 4 * 64 * 1000 + 4 * 1000
    assert rows_bytes(1000, 64, ADAM) == 16 * 64 * 1000
    assert MUON.optimizer * 2 == SHARDED_ADAM.optimizer


def test_an_interval_begins_at_what_is_held():
    found = memory(*published.megatron("gpt3-175B", "seqsel"), dropout=True)
    low, high = found.total.interval
    assert low == sum(found) < found.total.value < high == pytest.approx((1 + FRAGMENTED) * low)
    assert found.total.by == "assumed"


MODELS = some.builds(
    lambda heads, depth, length, gated: Transformer(
        depth=depth, width=16 * heads, heads=heads, hidden=64 * heads, length=length, vocab=1000, gated=gated
    ),
    some.sampled_from([4, 8]), some.sampled_from([4, 8, 24]), some.sampled_from([64, 256]), some.booleans(),
)  # fmt: skip


@given(model=MODELS, tensor=some.sampled_from([1, 2, 4]), pipeline=some.sampled_from([1, 2, 4]), flash=some.booleans())
@settings(max_examples=80, deadline=None)
def test_splitting_never_costs_memory_and_recomputing_less_never_saves_it(model, tensor, pipeline, flash):
    layout = Layout(batch=16, tensor=tensor, pipeline=pipeline, flash=flash)
    none, selective, full = (memory(model, replace(layout, recompute=how)) for how in ("none", "selective", "full"))
    assert full.activations <= selective.activations <= none.activations
    assert full.states == none.states
    more = memory(model, replace(layout, tensor=tensor * 2)) if tensor < 4 else None
    assert more is None or (more.states < none.states and more.activations < none.activations)
    apart = memory(model, replace(layout, sequence=True))
    assert apart.activations <= none.activations
    stages = [in_flight(model, layout, stage) for stage in range(pipeline)]
    assert stages == sorted(stages, reverse=True) and stages[0] == model.depth  # there are enough micro-batches


def test_the_last_stage_holds_logits_and_their_gradient_and_no_other_does():
    model, layout = published.megatron("gpt3-175B", "none")
    assert memory(model, layout, stage=7).working == 2048 * 51200 * (4 + 2) / 8
    assert memory(model, layout, stage=0).working == memory(model, layout, stage=6).working == 0
