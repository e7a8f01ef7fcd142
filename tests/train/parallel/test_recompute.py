"""Blocks that run again keep less and give the same."""

import numpy as np
import torch

from gyral.config.training import Train
from gyral.model.nets.llama import Shape
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train.parallel import mesh


def test_gradients_are_equal_and_less_is_kept():
    task = NextToken(Shape(257, 32, 6, 4, 4, 96), 64, Text([b"abcdefgh" * 200] * 8))
    batch = task.batch(np.arange(4), 0)
    kept, grads = [], []
    for recompute in (False, True):
        strategy = mesh.strategy_of({}, Train(recompute=recompute))
        model = strategy.place(task, task.build(0))
        held = {}

        def pack(tensor, held=held):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            task.loss(model, batch, lambda tensor: tensor)
        kept.append(sum(held.values()))
        strategy.forward_backward([batch])
        grads.append({name: param.grad.clone() for name, param in model.named_parameters()})
    assert kept[1] < kept[0] / 2, kept
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])
