"""Kernels give the products of the weights they stand for, or they are not taken."""

import numpy as np
import pytest
import torch
from torch import nn

from gyral.errors import InputError
from gyral.model.nets.captions import Bags
from gyral.model.quant import kernels
from gyral.model.quant.kernels import KERNELS, PLAIN, Kernel, choose
from gyral.model.quant.linear import QuantBags, QuantEmbedding, QuantLinear, beside, installed, kernels_of
from gyral.model.quant.packing import to_bf16, to_int4, to_int8

MAKES = {"int8": to_int8, "int4": to_int4, "bf16": to_bf16}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(kind, shape=(64, 96), seed=0):
    random = np.random.default_rng(seed)
    return MAKES[kind](random.standard_normal(shape).astype(np.float32)), random


def relative(found, truth):
    return np.linalg.norm(np.asarray(found, np.float64) - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("kernel", [*KERNELS, PLAIN], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("rows", [1, 2, 8, 33])
def test_each_kernel_against_a_product_in_float64(kernel, rows):
    packed, random = made(kernel.kind or "int4")
    x = random.standard_normal((rows, 96)).astype(np.float32)
    x[0] *= 1000  # a row's error is its own
    truth = np.einsum("bn,mn->bm", x.astype(np.float64), packed.dense().astype(np.float64))
    found = kernel.multiply(torch.from_numpy(x), *kernel.prepare(packed)).numpy()
    assert max(relative(found[row], truth[row]) for row in range(rows)) <= max(kernel.error, 1e-5)


@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 33), (16, 40), (64, 96)])
def test_odd_shapes_are_multiplied_too(kind, shape):
    packed, random = made(kind, shape)
    layer = QuantLinear(packed, torch.ones(shape[0]))
    x = random.standard_normal((2, 3, shape[1])).astype(np.float32)
    truth = x.astype(np.float64) @ packed.dense().astype(np.float64).T + 1
    found = layer(torch.from_numpy(x))
    assert found.shape == (2, 3, shape[0]) and relative(found.numpy(), truth) < 0.03
    assert layer(torch.zeros(0, shape[1])).shape == (0, shape[0])
    assert layer(torch.from_numpy(x).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", MAKES)
def test_a_row_does_not_depend_on_those_asked_with_it(kind):
    packed, random = made(kind)
    layer = QuantLinear(packed)
    x = torch.from_numpy(random.standard_normal((16, 96)).astype(np.float32))
    x[1:] *= torch.logspace(-2, 4, 15)[:, None]
    alone, together = layer(x[:1]), layer(x)[:1]
    assert relative(together.numpy(), alone.double().numpy()) < 1e-5


@pytest.mark.parametrize("name", ["dynamic", "by_row"])
def test_a_row_in_int8_is_the_same_to_the_bit_whoever_is_beside_it(name):
    """Neighbours of other sizes and of one sign only: what a scale of the whole batch would follow."""
    packed, random = made("int8")
    kernel = next(each for each in KERNELS if each.name == name)
    prepared = kernel.prepare(packed)
    x = torch.from_numpy(random.standard_normal((9, 96)).astype(np.float32))
    x[1:] *= torch.logspace(-2, 4, 8)[:, None]
    x[0] = x[0].abs()
    together = kernel.multiply(x, *prepared)
    for row in range(9):
        assert torch.equal(kernel.multiply(x[row : row + 1], *prepared)[0], together[row])


def test_layers_of_one_input_are_one_to_the_bit(monkeypatch):
    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(kernels, "PATIENCE", 1e9)
    layers = [QuantLinear(made("int8", shape, seed)[0]) for seed, shape in enumerate([(64, 96), (16, 96), (24, 96)])]
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((5, 96)).astype(np.float32))
    joined = beside(layers)
    assert joined.kernel.name == "dynamic" and torch.equal(joined(x), torch.cat([layer(x) for layer in layers], 1))
    assert beside([*layers, QuantLinear(made("int4")[0])]) is None
    assert beside([*layers, nn.Linear(96, 8)]) is None
    assert beside([QuantLinear(made("int8")[0], torch.ones(64))]) is None


def test_a_wrong_or_slow_kernel_is_not_taken(monkeypatch):
    packed, _ = made("int8")
    good = PLAIN._replace(kind="int8", name="good")

    def fails(packed):
        raise RuntimeError("no such operator\nand more")

    def slow(x, *prepared):
        return sum(PLAIN.multiply(x, *prepared) for _ in range(20)) / 20

    broken = [
        good._replace(name="wrong", multiply=lambda x, *prepared: PLAIN.multiply(x, *prepared) * 1.1),
        good._replace(name="nan", multiply=lambda x, *prepared: PLAIN.multiply(x, *prepared) * float("nan")),
        good._replace(name="absent", prepare=fails),
        good._replace(name="small", fits=lambda packed: False),
        good._replace(name="slow", multiply=slow),
        Kernel("other", "int4", 1.0, fails, slow),
    ]
    monkeypatch.setattr(kernels, "_known", {})
    found = choose(packed, tuple(broken))
    assert found.kernel is PLAIN and found.refused.keys() == {"wrong", "nan", "absent", "small", "slow"}
    assert found.refused["absent"] == "no such operator" and "wrong by" in found.refused["nan"]
    assert QuantLinear(packed, kernels=tuple(broken)).kernel is PLAIN
    monkeypatch.setattr(kernels, "PATIENCE", 100.0)
    taken = choose(packed, (*broken[:4], good))
    assert taken.kernel is good and taken.share > 0


def test_this_torch_has_the_fast_kernels():
    """A new torch without one of them would be slow and silent."""
    shape = (768, 512)
    assert choose(made("int8", shape)[0]).kernel.name in ("dynamic", "by_row", "weights")
    assert choose(made("int4", shape)[0]).kernel.name == "int4pack"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.bags = Bags(20, 32)
        self.up = nn.Linear(32, 48)
        self.logits = nn.Linear(32, 50, bias=False)
        self.logits.weight = self.embed.weight


def test_a_net_gets_them_in_the_places_of_its_own():
    net = Net()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    table = state["embed.weight"].numpy()
    packed = {"embed.weight": to_int8(table), "up.weight": to_int4(state["up.weight"].numpy())}
    packed["bags.weight"] = to_int8(state["bags.weight"].numpy())
    left = installed(net, packed, {"up.bias": state["up.bias"].numpy(), "x": table})
    assert list(left) == ["x"] and not list(net.parameters())
    assert isinstance(net.embed, QuantEmbedding) and isinstance(net.logits, QuantLinear) and isinstance(net.bags, QuantBags)
    assert sum(kernels_of(net).values()) == 2
    rows = torch.tensor([[3, 49], [0, 3]])
    assert (net.embed(rows).numpy() == packed["embed.weight"].dense()[rows.numpy()]).all()
    bags = torch.tensor([[[3, 5, 0], [0, 0, 0]]])
    table = packed["bags.weight"].dense()
    np.testing.assert_allclose(net.bags(bags).numpy(), [[table[3] + table[5], 0 * table[0]]], atol=1e-6)
    x = torch.randn(4, 32)
    dense = packed["up.weight"].dense()
    assert relative(net.up(x).numpy(), x.double().numpy() @ dense.T.astype(np.float64) + state["up.bias"].numpy()) < 0.02


def test_matrices_of_another_net_are_refused():
    for name, shape in (("up.weight", (48, 31)), ("down.weight", (48, 32)), ("up.bias", (1, 48))):
        with pytest.raises(InputError, match="not those of this model"):
            installed(Net(), {name: to_int8(np.ones(shape, np.float32))}, {})
