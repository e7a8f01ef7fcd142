"""Hand-written gradients and kernels against torch's own of the plain formula in double precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gyral.model.nets import quick
from gyral.model.nets.llama import rotation_of
from gyral.model.nets.quick import RMSNorm, _Turned, heads_of, swiglu, turned

BITS = {torch.float32: 5e-6, torch.bfloat16: 1.2e-2}
"""Largest error, as share of the largest value and a tenth."""
both = pytest.mark.parametrize("kind", BITS)


def plain_turn(x, rotation):
    first, second = x.chunk(2, dim=-1)
    return x * rotation[0] + torch.cat([-second, first], dim=-1) * rotation[1]


def draw(*shape, seed=0, kind=torch.float32):
    """Values that bfloat16 has as well, so that only what is computed of them is rounded."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(kind)


def linear(wide, width, seed, kind=torch.float32):
    layer = nn.Linear(width, wide, bias=False, dtype=kind)
    with torch.no_grad():
        layer.weight.copy_(draw(wide, width, seed=seed) / width**0.5)
    return layer


def agree(ours, oracle, kind):
    for mine, theirs in zip(ours, oracle, strict=True):
        assert mine.dtype == kind
        error = (mine.double() - theirs.double()).abs().max() / (theirs.double().abs().max() + 0.1)
        assert error <= BITS[kind], float(error)


def with_gradients(function, x, layers):
    """What a function gives, and the gradients of its weighted sum."""
    x = x.clone().requires_grad_()
    outs = function(x)
    outs = outs if isinstance(outs, tuple) else (outs,)
    weights = [draw(*out.shape, seed=9 + place).to(out.dtype) for place, out in enumerate(outs)]
    for layer in layers:
        layer.weight.grad = None
    torch.autograd.backward(outs, weights)
    return [*(out.detach() for out in outs), x.grad, *(layer.weight.grad for layer in layers)]


@both
@pytest.mark.parametrize(("shape", "threads"), [((5, 16), 1), ((2, 3, 16), 1), ((1, 1), 1), ((700, 401), 2)])
def test_a_norm_and_its_gradients_are_torchs(shape, threads, kind, in_threads):
    in_threads(threads)
    norm = RMSNorm(shape[-1], eps=1e-5, dtype=kind)
    oracle = nn.RMSNorm(shape[-1], eps=1e-5, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(draw(shape[-1], seed=1)), oracle.weight.copy_(norm.weight)
    x = draw(*shape, seed=2, kind=kind)
    agree(with_gradients(norm, x, [norm]), with_gradients(oracle, x.double(), [oracle]), kind)
    with torch.no_grad():
        assert torch.equal(norm(x), nn.RMSNorm.forward(norm, x)), "to the bit without gradients"


@both
@pytest.mark.parametrize(("rows", "width", "wide", "threads"), [(7, 8, 20, 1), (600, 16, 333, 2), (1, 4, 1, 2)])
def test_swiglu_and_its_gradients_are_torchs(rows, width, wide, threads, kind, in_threads):
    in_threads(threads)
    gate, up = linear(wide, width, 3, kind), linear(wide, width, 4, kind)
    with torch.no_grad():
        gate.weight.mul_(20)  # far out, where a sigmoid is next to 0 and 1
    exact = [linear(wide, width, 3, torch.float64), linear(wide, width, 4, torch.float64)]
    with torch.no_grad():
        exact[0].weight.copy_(gate.weight), exact[1].weight.copy_(up.weight)
    x = draw(2, rows, width, seed=5, kind=kind)
    ours = with_gradients(lambda x: swiglu(x, gate, up), x, [gate, up])
    oracle = with_gradients(lambda x: F.silu(exact[0](x)) * exact[1](x), x.double(), exact)
    agree(ours, oracle, kind)
    with torch.no_grad():
        assert torch.equal(swiglu(x, gate, up), F.silu(gate(x)) * up(x)), "to the bit without gradients"


@both
@pytest.mark.parametrize(("heads", "shared", "threads"), [(4, 4, 1), (6, 2, 2)])
def test_heads_and_their_gradients_are_torchs(heads, shared, threads, kind, in_threads, monkeypatch):
    in_threads(threads)
    monkeypatch.setattr(quick, "_WORTH_THREADS", 1)
    width, inside = 8, 24
    layers = tuple(linear(num * width, inside, 6 + place, kind) for place, num in enumerate((heads, shared, shared)))
    exact = tuple(linear(num * width, inside, 6 + place, torch.float64) for place, num in enumerate((heads, shared, shared)))
    for mine, theirs in zip(layers, exact, strict=True):
        with torch.no_grad():
            theirs.weight.copy_(mine.weight)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2], [5, 6, 7, 0, 1, 2, 900]])
    rotation = rotation_of(positions, width, 10_000.0)

    def plain(x):
        parts = [layer(x).view(2, 7, -1, width).transpose(1, 2) for layer in exact]
        return plain_turn(parts[0], rotation.double()), plain_turn(parts[1], rotation.double()), parts[2]

    x = draw(2, 7, inside, seed=8, kind=kind)
    ours = with_gradients(lambda x: heads_of(x, layers, width, rotation), x, layers)
    agree(ours, with_gradients(plain, x.double(), exact), kind)


def test_without_a_rotation_and_with_biases_layers_are_called_one_by_one():
    layers = tuple(nn.Linear(6, 8) for _ in range(3))
    x = draw(2, 5, 6)
    for mine, layer in zip(heads_of(x, layers, 4, None), layers, strict=True):
        assert torch.equal(mine, layer(x).view(2, 5, 2, 4).transpose(1, 2))


def test_what_is_not_a_number_is_not_hidden():
    x = draw(2, 3, 8)
    x[1, 2, 3] = torch.nan
    gate, up = linear(5, 8, 0), linear(5, 8, 1)
    out = swiglu(x, gate, up)
    assert out[1, 2].isnan().all() and not out[0].isnan().any()
    assert RMSNorm(8)(x)[1, 2].isnan().all()


def test_under_autocast_products_are_half_and_norms_are_not():
    gate, up, norm = linear(20, 16, 0), linear(20, 16, 1), RMSNorm(16)
    x = draw(2, 3, 16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        normed = norm(x)
        out = swiglu(normed, gate, up)
    assert (normed.dtype, out.dtype) == (torch.float32, torch.bfloat16)
    plain = F.silu(gate(normed)) * up(normed)
    assert torch.allclose(out.float(), plain, atol=2e-2, rtol=2e-2)
    out.sum().backward()
    assert gate.weight.grad.dtype == torch.float32


def test_a_parameter_that_was_used_can_still_be_freed():
    norm = RMSNorm(16)
    norm(draw(4, 16).requires_grad_()).sum().backward()
    norm.weight.data.untyped_storage().resize_(0)


def test_a_turn_and_its_gradient_are_those_of_the_formula():
    x = draw(2, 3, 7, 8).requires_grad_()
    rotation, weight = rotation_of(torch.arange(7).expand(2, 7), 8, 10_000.0), draw(2, 3, 7, 8, seed=1)
    (turned(x, rotation) * weight).sum().backward()
    mine, x.grad = x.grad, None
    (plain_turn(x, rotation) * weight).sum().backward()
    assert torch.allclose(mine, x.grad, atol=1e-6)
    assert torch.allclose(turned(x, rotation), plain_turn(x, rotation), atol=1e-6)
    assert torch.equal(turned(x.detach(), rotation), plain_turn(x.detach(), rotation)), "to the bit without gradients"
    exact, angles = x.detach().double()[0, 0].requires_grad_(), draw(7, 4, seed=2).double().repeat(1, 2)
    assert torch.autograd.gradcheck(lambda a: _Turned.apply(a, angles.cos(), angles.sin()), (exact,))


@pytest.fixture
def in_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
