"""What is asked of a mesh, and what is refused: words, numbers of ranks, layers, heads, shared parameters, memory."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from gyral.config.training import Optim, Train
from gyral.errors import ConfigError
from gyral.model.nets.llama import Shape
from gyral.model.roles import Roles
from gyral.model.task import BaseTask
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train.parallel import limits, mesh


class Bags(nn.Module):
    """3,000 numbers in a table and 110 outside it."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(300, 10), nn.Linear(10, 10)


class Of(BaseTask):
    def __init__(self, roles):
        self.roles = roles


@pytest.fixture
def four():
    """Four ranks of which only this one is there."""
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield
    dist.destroy_process_group()


def lm(**sizes):
    shape = Shape(257, 32, 2, sizes.get("heads", 4), sizes.get("kv_heads", 4), 44)
    return NextToken(shape, 16, Text([b"abcdefgh" * 20] * 8))


def placed(parallel, task, model):
    return mesh.strategy_of(mesh.parse(parallel), Train(parallel=parallel)).place(task, model)


def test_axes_are_read_in_their_order_whatever_the_words_order():
    assert list(mesh.parse("tensor=2, shard=1,data=3").items()) == [("data", 3), ("tensor", 2)]
    assert mesh.num_ranks(mesh.parse("data=2,shard=2,tensor=2")) == 8
    assert mesh.num_parts(mesh.parse("data=2,shard=3,tensor=2")) == 6


@pytest.mark.parametrize("text", ["tensr=2", "tensor=0", "tensor", "data=2,data=2", "data=two"])
def test_words_that_are_no_mesh_are_refused(text):
    with pytest.raises(ConfigError):
        mesh.parse(text)


@pytest.mark.usefixtures("four")
def test_another_number_of_ranks_than_the_mesh_has_is_refused():
    with pytest.raises(ConfigError, match=r"`data=2,tensor=4` is a mesh of 8 ranks, but 4 were started"):
        mesh.strategy_of(mesh.parse("data=2,tensor=4"), Train())


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("parallel", ["data=4", "data=2,shard=2", "shard=2,tensor=2"])
def test_batch_norm_is_refused_where_rows_are_split(parallel):
    with pytest.raises(ConfigError, match="`1` is a BatchNorm1d"):
        placed(parallel, Of(Roles()), nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(("heads", "kv_heads", "least", "hint"), [(6, 6, 6, "1, 2, 3 or 6"), (8, 2, 2, "1 or 2")])
def test_heads_that_do_not_divide_are_refused_with_those_that_would(heads, kv_heads, least, hint):
    task = NextToken(Shape(257, 48, 1, heads, kv_heads, 44), 16, Text([b"abcdefgh" * 20] * 8))
    with pytest.raises(ConfigError, match=f"`train.parallel.tensor = 4` does not divide the model's {least} heads") as error:
        placed("tensor=4", task, task.build(0))
    assert error.value.hint == f"use {hint}"


@pytest.mark.usefixtures("four")
def test_a_parameter_split_two_ways_is_refused():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    with pytest.raises(ConfigError, match="shared by modules that split it differently"):
        placed("tensor=4", Of(Roles(rules=(("0", "column"), ("1", "row")))), model)


@pytest.mark.usefixtures("four")
def test_a_role_that_does_not_fit_its_module_is_refused():
    with pytest.raises(ConfigError, match="`0` has the role `column`, but is a Conv1d"):
        placed("tensor=4", Of(Roles(rules=(("0", "column"),))), nn.Sequential(nn.Conv1d(4, 4, 1)))


@pytest.mark.usefixtures("four")
def test_tied_weights_stay_one_parameter():
    model = placed("shard=2,tensor=2", lm(), lm().build(0))
    assert model.logits.weight is model.embed.weight
    assert sum(name.startswith(("embed", "logits")) for name, _ in model.named_parameters()) == 1


def test_more_than_the_memory_is_refused_with_numbers(monkeypatch):
    task = lm()
    model = task.build(0)
    num = sum(param.numel() for param in model.parameters())
    assert limits.states_bytes(model, {}, Train()) == 16 * num
    assert limits.states_bytes(model, {"shard": 4}, Train()) == 4 * num
    assert limits.states_bytes(model, {"shard": 4}, Train(sharding="states")) == 8 * num + 2 * num
    rows, spread = Optim(tables="rowwise_adagrad"), Train(tables="row")
    bags, tables = Bags(), Roles((("table", "table"),))
    assert limits.states_bytes(bags, {"data": 4}, Train(), tables) == 16 * 3_110
    assert limits.states_bytes(bags, {"data": 4}, spread, tables) == 16 * 110 + 4 * 3_000
    assert limits.states_bytes(bags, {"data": 4}, Train(optim=rows), tables) == 16 * 110 + 4 * 3_000
    assert limits.states_bytes(bags, {"data": 2, "shard": 2}, Train(tables="row", optim=rows), tables) == 8 * 110 + 3_000
    monkeypatch.setattr(limits, "free_bytes", lambda: 4 * 16 * num)
    with pytest.raises(ConfigError, match=r"4 ranks need about .* GiB, and .* GiB are free"):
        limits.check(task, model, {"data": 4}, Train())
    monkeypatch.setattr(limits, "free_bytes", lambda: 2**40)
    assert limits.check(task, model, {"data": 2}, Train()) == []
    assert "share" in limits.check(task, model, {"data": 400}, Train(batch=400))[0]


def test_activations_are_estimated_within_a_factor_of_two():
    """Against what autograd really keeps."""
    task = NextToken(Shape(257, 64, 3, 4, 4, 192), 64, Text([b"abcdefgh" * 200] * 8))
    model = task.build(0)
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = task.batch(torch.arange(8).numpy(), 0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sums = task.loss(model, batch, lambda tensor: tensor)
    real = sum(kept.values())
    assert sums.loss.requires_grad
    estimate = limits.activation_bytes(task, model, {}, Train(batch=8))
    assert real / 2 <= estimate <= real * 2, (real, estimate)
