import numpy as np
import pytest
import torch
from torch import nn

from gyral.errors import InputError, UsageError
from gyral.params.embedding import Embedding, default_spec
from gyral.params.spec import Optimizer, TableSpec
from gyral.params.table import Table

from . import plain

NUM, DIM = 30, 6
SPEC = TableSpec("items", DIM, optimizer=Optimizer("adagrad", rate=0.1, eps=1e-8), scale=0.3)


def pair(spec=SPEC):
    """A layer, and torch's own with the same rows and an optimizer."""
    layer, peer = Embedding(Table(spec)), nn.Embedding(NUM, DIM, sparse=True)
    with torch.no_grad():
        peer.weight.copy_(layer(torch.arange(NUM)))
    return layer, peer, torch.optim.Adagrad(peer.parameters(), lr=0.1, eps=1e-8)


def rows(layer):
    with torch.no_grad():
        return layer(torch.arange(NUM))


@pytest.fixture(autouse=True)
def _said():
    """Torch wants to be told whether sparse tensors are checked."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


def test_learns_as_torch_does():
    layer, peer, optimizer = pair()
    torch.manual_seed(0)
    for _ in range(20):
        keys, target = torch.randint(NUM, (4, 9)), torch.randn(4, 9, DIM)
        for module in (layer, peer):
            ((module(keys) - target) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(rows(layer), peer.weight, atol=1e-6) and not list(layer.parameters())


def test_uses_in_one_pass_are_one_step():
    layer, peer, optimizer = pair()
    torch.manual_seed(0)
    for _ in range(10):
        one, other = torch.randint(NUM, (12,)), torch.randint(NUM, (5,))
        for module in (layer, peer):
            (module(one).sum(0) @ module(other).tanh().sum(0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(rows(layer), peer.weight, atol=1e-6)


def test_the_order_of_uses_is_that_of_calls():
    """In float32 (1e8 + 1) − 1e8 is 0 and (1e8 − 1e8) + 1 is 1: the order can be seen."""
    spec = TableSpec("items", 1, optimizer=Optimizer("sgd", rate=1.0), init="zero")
    for factors, wanted in [((1e8, 1.0, -1e8), 0.0), ((1e8, -1e8, 1.0), -1.0)]:
        layer = Embedding(Table(spec))
        uses = [layer(torch.tensor([7])) * factor for factor in factors]
        sum(reversed(uses)).sum().backward()
        assert layer(torch.tensor([7])).item() == wanted


def test_nothing_is_pushed_without_a_gradient():
    layer = Embedding(Table(SPEC))
    with torch.no_grad():
        assert not layer(torch.arange(4)).requires_grad
    layer(torch.arange(4))
    assert len(layer.table) == 0


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_are_those_of_torch(mode):
    table = Table(SPEC)
    layer = Embedding(table, mode=mode, padding=0)
    peer = nn.EmbeddingBag.from_pretrained(rows(Embedding(table)), freeze=False, mode=mode, padding_idx=0)
    optimizer = torch.optim.Adagrad(peer.parameters(), lr=0.1, eps=1e-8)
    torch.manual_seed(0)
    for _ in range(10):
        for given in ((torch.randint(NUM, (5, 4)),), (torch.randint(NUM, (11,)), torch.tensor([0, 3, 3, 9]))):
            outs = [module(*given) for module in (layer, peer)]
            assert torch.allclose(*outs, atol=1e-6)
            for out in outs:
                out.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(rows(Embedding(table))[1:], peer.weight[1:], atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("compensation", [0.0, 0.5])
def test_a_handle_is_as_good_as_a_table(count, compensation):
    """`Plain` has only `spec`, `pull` and `push`, as a client's handle; its default row too."""
    optimizer = Optimizer("rowwise_adagrad", compensation=compensation)
    spec = TableSpec("items", DIM, optimizer=optimizer, admit_count=count)
    default = default_spec(spec)
    layers = [
        Embedding(Table(spec)),
        Embedding(plain.Plain(spec), plain.Plain(default) if default else None),
    ]
    torch.manual_seed(0)
    for at in range(12):
        keys, target = torch.randint(NUM, (20,)), torch.randn(20, DIM)
        for layer in layers:
            ((layer(keys, at=at) - target) ** 2).sum().backward()
    assert torch.equal(*map(rows, layers)) and len(layers[0].table) == len(layers[1].table) > 20
    assert layers[0].table.pull(np.arange(NUM))[1].sum() == len(layers[0].table)


def test_who_is_not_in_reads_a_row_that_learns():
    spec = TableSpec("items", DIM, optimizer=Optimizer("sgd", rate=0.1), admit_count=3, scale=0.3)
    layer = Embedding(Table(spec))
    first = rows(layer)
    assert (first == first[0]).all() and first.any() and default_spec(SPEC) is None
    target = torch.ones(2, DIM)
    for step in range(2):
        before = rows(layer)
        ((layer(torch.tensor([4, 5])) - target) ** 2).sum().backward()
        assert torch.allclose(rows(layer)[9], before[9] - 0.1 * 2 * 2 * (before[9] - 1), atol=1e-6), step
    ((layer(torch.tensor([4])) - target[:1]) ** 2).sum().backward()
    assert layer.table.pull(np.array([4, 5]))[1].tolist() == [True, False]
    assert not torch.equal(rows(layer)[4], rows(layer)[5])
    with pytest.raises(UsageError, match=r"items\.default"):
        Embedding(plain.Plain(spec))


def test_a_bad_gradient_is_refused_and_forgotten():
    layer, peer, optimizer = pair()
    other = layer(torch.tensor([3]))
    with pytest.raises(InputError, match="key 1: NaN"):
        (layer(torch.tensor([1])) * torch.nan).sum().backward()
    assert len(layer.table) == 0
    with pytest.raises(ZeroDivisionError):  # a pass that fails after this layer's gradient came

        def fail(_):
            raise ZeroDivisionError

        start = torch.zeros(1, DIM, requires_grad=True)
        late = start * 1
        late.register_hook(fail)
        (late.sum() + 0 * layer(torch.tensor([2])).sum()).backward()
    (other.sum() + layer(torch.tensor([4])).sum()).backward()
    peer(torch.tensor([3, 4])).sum().backward()
    optimizer.step()
    assert torch.allclose(rows(layer), peer.weight, atol=1e-6) and set(layer.table.cut().upserts.keys.tolist()) >= {3, 4}


def test_rows_that_went_between_forward_and_backward_come_back_new():
    spec = TableSpec("items", DIM, optimizer=Optimizer("sgd", rate=1.0), expire_s=5)
    layer, keys = Embedding(Table(spec)), torch.arange(8)
    first = layer(keys, at=1).detach()
    layer(keys, at=1).sum().backward()
    late = layer(keys, at=20)
    assert layer.table.expire(10) == 8
    Embedding(layer.table)(torch.arange(100, 103), at=20).sum().backward()  # takes their places
    late.sum().backward()
    with torch.no_grad():
        assert torch.allclose(layer(keys), first - 1) and len(layer.table) == 11


def test_outputs_of_half_the_bits():
    layer = Embedding(Table(SPEC), dtype=torch.bfloat16)
    out = layer(torch.arange(3))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert len(layer.table) == 3


def test_keys_and_modes_that_cannot_be():
    with pytest.raises(InputError, match=r"keys\.long"):
        Embedding(Table(SPEC))(torch.zeros(3))
    with pytest.raises(UsageError, match="no mode"):
        Embedding(Table(SPEC), mode="max")
