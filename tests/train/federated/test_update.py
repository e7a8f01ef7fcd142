"""What leaves a device: no longer than the limit, right on average, and the rotation is one."""

import numpy as np
import torch

from gyral.train.federated import update


def test_limits_shorten_what_is_longer_and_nothing_else():
    moved = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    limited, norms = update.clipped(moved, 1.0)
    assert torch.allclose(limited, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    assert torch.allclose(norms, torch.tensor([5.0, 0.5, 0.0]))
    assert update.clipped(moved, 0.0)[0] is moved


def test_the_matrix_is_that_of_walsh_and_hadamard():
    for size in (1, 2, 8, 128, 256):
        rows = np.arange(size)
        signs = np.array([[(-1.0) ** bin(i & j).count("1") for j in rows] for i in rows]) / size**0.5
        assert torch.allclose(update.hadamard(torch.eye(size)), torch.from_numpy(signs).float(), atol=1e-6)


def test_there_and_back_is_nothing_and_norms_stay():
    moved = torch.randn(3, 1_000, generator=torch.Generator().manual_seed(0)) * torch.arange(1_000)
    rotation = update.Rotation(1_000, 7, 3)
    there = rotation.there(moved)
    assert there.shape == (3, 1_024)
    assert torch.allclose(there.norm(dim=1), moved.norm(dim=1))
    assert torch.allclose(rotation.back(there), moved, atol=1e-3)
    assert not torch.equal(there, update.Rotation(1_000, 7, 4).there(moved))


def test_codes_are_right_on_average_and_no_longer_than_told():
    spike = torch.zeros(1, 1_000)
    spike[0, 5] = 1.0  # the worst for a grid without rotation: one value has it all
    rotation = update.Rotation(1_000, 0, 0)
    step = update.step_of(rotation.padded)
    steps, seeds = torch.full((1, 1), step), np.arange(400).reshape(400, 1)
    codes = torch.cat([update.encoded(rotation.there(spike), steps, seed[None]) for seed in seeds]).float() * step
    assert (codes.norm(dim=1) <= 1 + update.ROUNDED).all()
    told = rotation.back(codes)
    error = (told - spike).norm(dim=1)
    assert error.mean() < 0.03
    assert (told.mean(0) - spike[0]).norm() < 3 * error.mean() / 400**0.5
