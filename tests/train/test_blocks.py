"""Recomputing and compiling blocks: the same numbers, fewer tensors kept."""

import pytest
import torch
from torch import nn

from gyral.config.training import Train
from gyral.errors import ConfigError
from gyral.model.nets.llama import ROLES, Llama, Shape
from gyral.model.roles import Roles
from gyral.train.blocks import prepare

TOKENS, POSITIONS = torch.arange(48).reshape(2, 24) % 31, torch.arange(24).expand(2, 24)


def llama():
    torch.manual_seed(0)
    return Llama(Shape(31, 32, 3, 2, 2, 64))


def kept(model):
    """Loss, gradients, and how many numbers the forward pass keeps for the backward pass."""
    num = 0

    def count(tensor):
        nonlocal num
        num += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = model(TOKENS, POSITIONS).logsumexp(-1).sum()
    seen = num
    loss.backward()
    return float(loss.detach()), [param.grad for param in model.parameters()], seen


def test_recomputing_changes_no_number_and_keeps_less():
    plain, less = llama(), prepare(llama(), ROLES, Train(recompute=True))
    (loss, grads, num), (same, again, fewer) = kept(plain), kept(less)
    assert loss == same and all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))
    assert fewer < num / 3
    assert list(plain.state_dict()) == list(less.state_dict())


def test_a_model_that_only_answers_computes_once():
    model, calls = llama(), []
    model.blocks["0"].feed.register_forward_hook(lambda *_: calls.append(1))
    prepare(model, ROLES, Train(recompute=True)).eval()
    model(TOKENS, POSITIONS).sum().backward()
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_give_the_same_loss():
    plain, fast = llama(), prepare(llama(), ROLES, Train(compile=True, recompute=True))
    (loss, grads, _), (same, again, _) = kept(plain), kept(fast)
    assert same == pytest.approx(loss, rel=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(grads, again, strict=True))


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="no blocks"):
        prepare(nn.Linear(2, 2), Roles(), Train(recompute=True))
