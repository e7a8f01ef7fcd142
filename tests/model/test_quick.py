"""Hand-written gradients against torch's own and against differences of the function itself."""

import pytest
import torch
from torch import nn

from gyral.model.nets.llama import rotation_of
from gyral.model.nets.quick import RMSNorm, _Normed, _Turned, turned


def plain_turn(x, rotation):
    first, second = x.chunk(2, dim=-1)
    return x * rotation[0] + torch.cat([-second, first], dim=-1) * rotation[1]


def test_a_turn_and_its_gradient_are_those_of_the_formula():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 7, 8, generator=draw, requires_grad=True)
    rotation, weight = rotation_of(torch.arange(7).expand(2, 7), 8, 10_000.0), torch.randn(2, 3, 7, 8, generator=draw)
    (turned(x, rotation) * weight).sum().backward()
    mine, x.grad = x.grad, None
    (plain_turn(x, rotation) * weight).sum().backward()
    assert torch.allclose(mine, x.grad, atol=1e-6)
    assert torch.allclose(turned(x, rotation), plain_turn(x, rotation), atol=1e-6)
    assert torch.equal(turned(x.detach(), rotation), plain_turn(x.detach(), rotation)), "to the bit without gradients"


@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 16)])
def test_a_norm_and_its_gradients_are_torchs(shape):
    draw = torch.Generator().manual_seed(1)
    mine, theirs = RMSNorm(16, eps=1e-5), nn.RMSNorm(16, eps=1e-5)
    with torch.no_grad():
        mine.weight.copy_(torch.randn(16, generator=draw)), theirs.weight.copy_(mine.weight)
    x, weight = torch.randn(*shape, generator=draw), torch.randn(*shape, generator=draw)
    found = []
    for norm in (mine, theirs):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        (out * weight).sum().backward()
        found.append((out.detach(), leaf.grad, norm.weight.grad))
    for ours, oracle in zip(*found, strict=True):
        assert torch.allclose(ours, oracle, atol=2e-6, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(mine(x), theirs(x))


def test_gradients_are_the_differences_of_the_function():
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(3, 4, dtype=torch.float64, generator=draw, requires_grad=True)
    gain = torch.randn(4, dtype=torch.float64, generator=draw, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: _Normed.apply(a, b, 1e-3), (x, gain))
    angles = torch.randn(3, 2, dtype=torch.float64, generator=draw).repeat(1, 2)
    assert torch.autograd.gradcheck(lambda a: _Turned.apply(a, angles.cos(), angles.sin()), (x,))


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_half_precision_falls_back_to_torchs():
    norm = RMSNorm(8)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(torch.randn(2, 8, dtype=torch.bfloat16, requires_grad=True))
    out.sum().backward()
    assert norm.weight.grad is not None
