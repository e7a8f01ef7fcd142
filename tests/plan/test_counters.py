"""Counts are those of modules, of torch's own counter of FLOPs, and of published models."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gyral.errors import ConfigError
from gyral.model.nets import gpt2, llama, two_tower, vit
from gyral.plan import counters
from gyral.plan.counters import Transformer, flops, params

from . import published

LLAMA = llama.Shape(512, 64, 3, 8, 2, 192)
SHAPES = {
    "llama": (LLAMA, llama.Llama, counters.llama),
    "untied": (llama.Shape(300, 48, 2, 4, 4, 100, tied=False), llama.Llama, counters.llama),
    "pruned heads": (llama.Shape(300, 48, 2, 3, 3, 100, head=12), llama.Llama, counters.llama),
    "experts": (llama.Shape(512, 64, 3, 8, 4, 96, experts=6, experts_used=2), llama.Llama, counters.llama),
    "gpt2": (llama.Shape(512, 64, 3, 8, 8, 256), lambda shape: gpt2.Gpt2(shape, 32), counters.gpt2),
    "llama 70b": (llama.Shape(32000, 8192, 80, 64, 8, 28672, tied=False), llama.Llama, counters.llama),
}
VITS = [vit.Shape(32, 4, 64, 3, 4, 128, classes=10), vit.Shape(224, 16, 768, 12, 12, 3072, learned=True, classes=1000)]


def built(make, *shape):
    with torch.device("meta"):
        return make(*shape)


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_of_a_decoder_are_those_of_the_module(name):
    shape, make, describe = SHAPES[name]
    module = built(make, shape)
    found = params(describe(shape, 32))
    assert found.total == sum(param.numel() for param in module.parameters())
    by_role = counters.by_role(module, gpt2.ROLES if name == "gpt2" else llama.ROLES)
    vocab = shape.vocab * shape.width
    assert by_role["vocabulary"] == vocab
    assert found.output == (by_role["logits"] if not shape.tied else 0)
    if shape.experts:
        assert by_role["expert"] == found.feed


def test_llama_2_of_70b_has_as_many_parameters_as_published():
    assert params(counters.llama(SHAPES["llama 70b"][0], 4096)).total == 68_976_648_192


@pytest.mark.parametrize("shape", VITS, ids=["sines", "learned"])
def test_parameters_of_a_vision_transformer_are_those_of_the_module(shape):
    assert params(counters.vit(shape)).total == sum(param.numel() for param in built(vit.Vit, shape).parameters())


def test_parameters_of_two_towers_are_those_of_the_module():
    shape = two_tower.Shape(1000, 40, 500, 32, 10, 64)
    module = two_tower.TwoTower(shape, torch.zeros(500, 6, dtype=torch.int64))
    found = counters.two_tower(shape, 6, two_tower.NUM_WORDS)
    by_role = counters.by_role(module, two_tower.ROLES)
    tables = by_role["table"]
    assert found.dense_params == by_role["column"] + by_role["row"]
    assert found.rows_params == tables + by_role["replicate"]  # countries are not spread
    assert found.forward_flops == 2 * (3 * 32 * 64 + 64 * 32 + 2 * 32 * 64 + 64 * 32)
    assert found.read_bytes() == 4 * 32 * (1 + 1 + 11 + 6)


@pytest.mark.parametrize("row", published.rows("llmfoundry_a100.csv"), ids=lambda row: f"{row['Model']}-{row['SeqLen (T)']}")
def test_published_models_have_as_many_parameters_as_their_table_says(row):
    assert params(published.foundry(row)[0]).total == int(row["NumParams"])


@pytest.mark.parametrize(("name", "billions"), [("gpt3-175B", 175), ("turing-530B", 530), ("megatron-1T", 1008)])
def test_megatrons_models_have_as_many_parameters_as_their_names_say(name, billions):
    assert params(published.megatron(name, "none")[0]).total / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.fixture
def plain_attention():
    """Torch counts products of attention where they are products."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.mark.parametrize("name", ["llama", "untied", "gpt2"])
def test_flops_are_those_that_torch_counts(name, plain_attention):
    shape, make, describe = SHAPES[name]
    module, rows, length = make(shape), 2, 32
    tokens, positions = torch.zeros(rows, length, dtype=torch.int64), torch.arange(length).expand(rows, length)
    with FlopCounterMode(display=False) as counter:
        logits = module(tokens, positions)
    found = flops(describe(shape, length), rows, skips=False)
    assert counter.get_total_flops() == found.forward
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    assert counter.get_total_flops() == found.backward


def test_flops_of_experts_are_those_of_the_ones_that_are_used(plain_attention):
    shape, make, describe = SHAPES["experts"]
    module, length = make(shape), 32
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, length, dtype=torch.int64), torch.arange(length)[None])
    assert counter.get_total_flops() == flops(describe(shape, length), skips=False).forward


def test_flops_of_a_picture_are_those_that_torch_counts(plain_attention):
    shape = VITS[0]
    module = vit.Vit(shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(3, 3, 32, 32))
    assert counter.get_total_flops() == flops(counters.vit(shape), 3).forward


def test_flops_are_those_that_a_task_tells():
    from gyral.model.tasks.next_token import NextToken, Text

    task = NextToken(LLAMA, 32, Text([b"abcdefgh" * 64] * 20))
    assert flops(counters.llama(LLAMA, 32)).model == task.flops(task.build(0))


@given(
    depth=some.integers(1, 8), heads=some.integers(1, 8), hidden=some.integers(8, 256), length=some.integers(1, 512),
    rows=some.integers(1, 9), causal=some.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_recomputing_costs_at_most_another_forward_pass(depth, heads, hidden, length, rows, causal):
    model = Transformer(depth=depth, width=8 * heads, heads=heads, hidden=hidden, length=length, vocab=100, causal=causal)
    none, selective, full = (flops(model, rows, recompute) for recompute in ("none", "selective", "full"))
    assert none.recomputed == 0 and none.hardware == none.model == 3 * none.forward
    assert selective.recomputed == none.attention
    assert selective.recomputed < full.recomputed < none.forward
    assert full.model == none.model == rows * flops(model).model
    assert none.attention * (2 if causal else 1) == flops(model, rows, skips=False).attention


def test_a_model_without_heads_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        Transformer(depth=1, width=8, heads=0, hidden=8, length=8)
    with pytest.raises(ConfigError, match="3 of 2 experts"):
        Transformer(depth=1, width=8, heads=1, hidden=8, length=8, experts=2, experts_used=3)
