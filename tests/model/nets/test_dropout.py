import numpy as np
import torch

from gyral.model.nets.dropout import RowDropout, kept, row_keys


def test_a_row_is_dropped_alike_whoever_computes_it():
    examples = np.array([7, 3, 900_000_000_000, 12])
    keys = row_keys(5, 17, examples)
    whole = kept(keys, 2, (6, 5), 0.4)
    for row in range(4):
        alone = kept(row_keys(5, 17, examples[row : row + 1]), 2, (6, 5), 0.4)
        assert torch.equal(alone[0], whole[row])


def test_the_share_is_kept_and_layers_steps_and_seeds_differ():
    examples = np.arange(200)
    masks = [
        kept(row_keys(seed, step, examples), site, (500,), 0.3)
        for seed, step, site in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    ]
    for mask in masks:
        assert set(mask.unique().tolist()) == {0.0, np.float32(1 / 0.7)}
        assert abs(float((mask == 0).float().mean()) - 0.3) < 0.006  # four standard errors
        assert (mask == 0).float().mean(0).std() < 0.05 and (mask == 0).float().mean(1).std() < 0.03
    for one in range(4):
        for other in range(one):
            both = (masks[one] == 0) & (masks[other] == 0)
            assert abs(float(both.float().mean()) - 0.09) < 0.006


def test_nothing_is_dropped_in_evaluation():
    layer, x = RowDropout(0.5, 0), torch.ones(2, 3)
    keys = row_keys(0, 0, np.arange(2))
    assert not torch.equal(layer(x.repeat(1, 40), keys), x.repeat(1, 40))
    assert layer(x, None) is x and layer.eval()(x, keys) is x
