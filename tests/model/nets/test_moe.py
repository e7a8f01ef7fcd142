"""Experts: a loop over tokens in numpy, and what a split of a batch may not change."""

import numpy as np
import pytest
import torch
from torch import nn

from gyral.model.nets.llama import ROLES, Llama, Shape
from gyral.model.nets.moe import Experts


def made(balance=0.0, used=2, num=5, width=6):
    torch.manual_seed(0)
    return Experts(width, num, used, lambda: nn.Linear(width, width), balance)


@pytest.mark.parametrize("used", [1, 2, 5])
def test_each_token_is_the_weighed_sum_of_its_best_experts(used):
    experts = made(used=used)
    x = torch.randn(3, 4, 6)
    found = experts(x).detach().numpy()
    router = experts.router.weight.detach().numpy()
    for row in range(3):
        for place in range(4):
            token = x[row, place].numpy()
            score = np.exp(router @ token)
            best = np.argsort(-score)[:used]
            expected = np.zeros(6)
            for number in best:
                expert = experts.experts[str(number)]
                value = expert.weight.detach().numpy() @ token + expert.bias.detach().numpy()
                expected += score[number] / score[best].sum() * value
            assert found[row, place] == pytest.approx(expected, abs=1e-6)


def test_the_balance_is_that_of_the_paper_and_pushes_the_router_only():
    experts = made(balance=0.5)
    x = torch.randn(2, 8, 6)
    (experts(x) * 1e-12).sum().backward()  # of the loss itself nothing is left
    router = nn.Parameter(experts.router.weight.detach().clone())
    total = torch.zeros(())
    for row in x:  # DeepSeek-V3, equations 17 to 20, of a row, times its length
        probability = (row @ router.T).softmax(-1)
        chosen = probability.topk(2, dim=-1).indices
        share = 5 / (2 * 8) * torch.stack([(chosen == number).sum() for number in range(5)])
        total = total + 0.5 * 8 * (share * probability.mean(0)).sum()
    total.backward()
    assert torch.allclose(experts.router.weight.grad, router.grad, atol=1e-7)
    assert float(router.grad.abs().max()) > 1e-3
    assert all(float(param.grad.abs().max()) < 1e-10 for param in experts.experts.parameters())


def test_rows_add_up_and_a_row_without_a_loss_has_no_balance():
    x = torch.randn(4, 5, 6)
    whole, parts, fewer = made(1.0), made(1.0), made(1.0)
    whole(x)[:3].square().sum().backward()
    for rows in (x[:1], x[1:3]):
        parts(rows).square().sum().backward()
    fewer(x[:3]).square().sum().backward()
    for one, two, three in zip(whole.parameters(), parts.parameters(), fewer.parameters(), strict=True):
        assert torch.allclose(one.grad, two.grad, atol=1e-6) and torch.allclose(one.grad, three.grad, atol=1e-6)


def test_experts_that_no_token_chose_have_a_gradient_of_zero():
    experts = made(num=64, used=1)
    experts(torch.randn(1, 2, 6)).sum().backward()
    assert all(param.grad is not None for param in experts.experts.parameters())


def test_a_decoder_with_experts_has_the_names_of_mixtral_and_counts_what_a_token_uses():
    shape = Shape(50, 32, 1, 4, 4, 48, False, experts=8, experts_used=2)
    model = Llama(shape)
    names = {ROLES.hf_name(name) for name, _ in model.named_parameters()}
    assert "model.layers.0.block_sparse_moe.experts.7.w2.weight" in names
    assert "model.layers.0.block_sparse_moe.gate.weight" in names
    dense = Llama(Shape(50, 32, 1, 4, 4, 96, False))
    assert ROLES.num_multiplied(model) == ROLES.num_multiplied(dense)
