"""Tables against torch's EmbeddingBag."""

import pytest
import torch
from torch import nn

from gyral.model.nets.tables import NO_ID, Table


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_bags_are_those_of_torch(pooling):
    table = Table(9, 4, pooling)
    bags = [[1, 2, 2], [], [8], [0, 3, 4, 5]]
    padded = torch.tensor([bag + [NO_ID] * (4 - len(bag)) for bag in bags])
    offsets = torch.tensor([0, 3, 3, 4])
    peer = nn.EmbeddingBag(9, 4, mode=pooling)
    peer.weight.data.copy_(table.weight.data)
    found, expected = table(padded), peer(torch.tensor([number for bag in bags for number in bag]), offsets)
    assert torch.allclose(found, expected, atol=1e-6)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(table.weight.grad, peer.weight.grad, atol=1e-6)


def test_without_pooling_each_id_has_its_vector():
    table = Table(9, 4, "none")
    found = table(torch.tensor([[3, NO_ID]]))
    assert torch.equal(found[0, 0], table.weight[3]) and not found[0, 1].any()
