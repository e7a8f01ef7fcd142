"""Reordered matrices give the products of those they were made of, or none is made."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gyral.config.sections import Decode
from gyral.model.decoding.forward import Forward, Span
from gyral.model.decoding.pages import Pages
from gyral.model.nets.llama import Llama, Shape
from gyral.model.quant import kernels, trying
from gyral.model.quant import reordered as module
from gyral.model.quant.packing import to_bf16
from gyral.model.quant.reordered import LEAST, multiply, reorder, reordered, serves
from gyral.serve.openai.engines import Engines


@pytest.fixture(autouse=True)
def _asked_anew():
    module._tried.cache_clear()
    yield
    module._tried.cache_clear()


@pytest.fixture
def _any_time(monkeypatch):
    """Whichever is faster on a busy machine is none of these tests' business."""
    ticks = iter(range(1 << 20))
    monkeypatch.setattr(trying.time, "thread_time", lambda: next(ticks))
    monkeypatch.setattr(trying.time, "perf_counter", lambda: next(ticks))


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7, 33, 200])
def test_products_are_those_of_float64(dtype, rows):
    weight, x = drawn(301, 437).to(dtype), drawn(rows, 437, seed=1).to(dtype)
    found, truth = multiply(x, reorder(weight)).double(), x.double() @ weight.double().t()
    assert float((found - truth).norm() / truth.norm()) <= {torch.float32: module.ERROR, torch.bfloat16: 0.006}[dtype]


def test_a_view_of_a_larger_matrix_is_read_as_it_is(_any_time):
    whole, x = drawn(1_024, 512), drawn(3, 512, seed=1)
    for view in (whole[512:], whole[::2], whole.t()[:, :512].contiguous().t()):
        torch.testing.assert_close(reordered(view)(x), x @ view.t(), rtol=1e-4, atol=1e-3)


def test_small_ones_lie_as_they_are(monkeypatch):
    monkeypatch.setattr(module, "reorder", lambda weight: pytest.fail("it was reordered"))
    weight, x = drawn(64, LEAST // 64 - 1), drawn(3, LEAST // 64 - 1, seed=1)
    assert torch.equal(reordered(weight)(x), torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("kind", ["wrong", "absent", "slow"])
def test_where_the_operator_is_of_no_use_matrices_lie_as_they_are(monkeypatch, kind):
    def absent(x_BN, matrix):
        raise NotImplementedError("Could not run 'mkldnn::_linear_pointwise'")

    was = module.multiply
    if kind == "slow":
        monkeypatch.setattr(module, "seconds", lambda product, x_BN, matrix: float(product is module.multiply))
    else:
        monkeypatch.setattr(module, "multiply", {"wrong": lambda x, m: was(x, m) * 1.001, "absent": absent}[kind])
    weight, x = drawn(512, 512), drawn(3, 512, seed=1)
    assert not serves((512, 512))
    assert torch.equal(reordered(weight)(x), torch.nn.functional.linear(x, weight))


def test_bf16_is_multiplied_by_it_and_right(monkeypatch, _any_time):
    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(kernels, "PATIENCE", 1e9)
    packed = to_bf16(drawn(512, 512).numpy())
    assert kernels.choose(packed).kernel.name == "reordered"
    assert kernels.choose(to_bf16(drawn(64, 64).numpy())).kernel.name == "bf16"
    layer = kernels.choose(packed).kernel
    x = drawn(5, 512, seed=1)
    found = layer.multiply(x, *layer.prepare(packed)).numpy()
    truth = x.numpy().astype(np.float64) @ packed.dense().astype(np.float64).T
    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) <= layer.error


def test_bf16_that_is_slower_reordered_lies_as_it_is_and_each_way_is_tried_once(monkeypatch):
    made = []

    def seconds(product, x_BN, *prepared):
        made.append(product)
        return 2.0 if product is kernels._reordered else 1.0

    monkeypatch.setattr(kernels, "_known", {})
    monkeypatch.setattr(kernels, "seconds", seconds)
    monkeypatch.setattr(module, "serves", lambda *_: pytest.fail("it was tried beforehand"))
    choice = kernels.choose(to_bf16(drawn(512, 512).numpy()))
    assert choice.kernel.name == "bf16" and choice.refused == {"reordered": "slower than `bf16`"}
    assert made.count(kernels._reordered) == len(kernels.ROWS)
    assert kernels.choose(to_bf16(drawn(512, 512, seed=1).numpy())) is choice


def test_a_decoder_by_reordered_matrices_is_the_net(_any_time, monkeypatch):
    calls, was = [], module.multiply
    monkeypatch.setattr(module, "multiply", lambda x, matrix: calls.append(1) or was(x, matrix))
    torch.manual_seed(0)
    net = Llama(Shape(600, 256, 2, 4, 2, 512)).eval()
    tokens = [5, 6, 7, 8]
    pages = Pages(4, 2, 2, 64)
    forward = Forward(net, 64, reordered)
    calls.clear()
    found = forward(tokens, [Span(0, 4, [0])], range(4), pages)
    assert len(calls) == 2 * 3 + 1  # all of them but what attention gives, 65,536 weights
    with torch.inference_mode():
        expected = net(torch.tensor([tokens]), torch.arange(4)[None])[0].numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("is_reordered", [True, False])
def test_a_server_reorders_unless_told_not_to(_any_time, monkeypatch, tmp_path, is_reordered):
    net = Llama(Shape(600, 256, 1, 4, 2, 512)).eval()
    serves((600, 256))  # asked before, so that what is counted is what is held
    made, was = [], module.reorder
    monkeypatch.setattr(module, "reorder", lambda weight: made.append(tuple(weight.shape)) or was(weight))
    engines = Engines(Decode(reordered=is_reordered), tmp_path)
    engines._by_us(SimpleNamespace(model=net, length=64))
    assert ((600, 256) in made) == is_reordered
