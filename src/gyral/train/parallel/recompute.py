"""Activation recomputation: each block keeps its input and runs again in the backward pass.

Memory of activations falls from a block's worth times their number to one block's and the inputs; the forward pass is done
twice, a third more work.

Source: Chen et al. 2016, section 3.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.checkpoint import checkpoint

from gyral.model.roles import Roles

if TYPE_CHECKING:
    from gyral.train.parallel.meshed import Plan


def place(model: nn.Module, plan: Plan) -> None:
    """As `wrap`."""
    wrap(model, plan.task.roles)


def wrap(model: nn.Module, roles: Roles) -> None:
    """Wrap the call of each block; names stay as they are."""
    for _, block in roles.units(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
