"""Gradients over a mesh: added over the axes where ranks have other terms, and their norm, each number counted once.

Shapes are those of the parameters; what a rank holds of them is a DTensor's part (`gyral.train.parallel.local`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from gyral.train import device
from gyral.train.parallel import touched
from gyral.train.parallel.data import add_over
from gyral.train.parallel.local import local, split_axes

SUM_AXES = ("data", "shard", "context", "expert")
"""Axes along which ranks compute other terms of the loss."""


class Groups:
    """Process groups of any axes of a mesh together."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh, self.names = mesh, tuple(mesh.mesh_dim_names or ())
        self._made: dict[tuple[str, ...], dist.ProcessGroup] = {}

    def present(self, axes: Sequence[str]) -> tuple[str, ...]:
        """Those of some axes that the mesh has, in its order."""
        return tuple(name for name in self.names if name in axes)

    def size(self, axis: str) -> int:
        """Ranks along an axis."""
        return self.mesh.size(self.names.index(axis))

    def of(self, axes: tuple[str, ...]) -> dist.ProcessGroup:
        """The group of the ranks that differ along these axes only; the first call for axes is made by all ranks together."""
        if axes not in self._made:
            part = self.mesh[axes] if len(axes) > 1 else self.mesh[axes[0]]
            self._made[axes] = (part._flatten("_".join(axes)) if len(axes) > 1 else part).get_group()
        return self._made[axes]


def local_gradients(model: nn.Module) -> list[Tensor]:
    """What this rank holds of each gradient."""
    return [local(grad) for param in model.parameters() if (grad := touched.gradient_of(param)) is not None]


@torch.no_grad()
def add_gradients(model: nn.Module, groups: Groups, split: Mapping[str, tuple[str, ...]]) -> None:
    """Add each gradient over the axes along which sums differ and its parameter is not split."""
    pending: dict[tuple[str, ...], list[Tensor]] = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        missing = tuple(axis for axis in groups.present(SUM_AXES) if axis not in (*split_axes(param), *split.get(name, ())))
        if missing:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            pending.setdefault(missing, []).append(local(param.grad))
    for axes, grads in pending.items():
        add_over(grads, groups.of(axes))


@torch.no_grad()
def gradient_norm(
    model: nn.Module,
    groups: Groups,
    private: tuple[str, ...] = (),
    split: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    without: Collection[str] = (),
) -> float:
    """Euclidean norm of the whole gradient.

    Squares are added on each rank by the set of axes their parameters are split along, one number a set; then each axis adds
    the numbers of the sets it is in. Every rank asks for the same sums, also one that holds no parameter of a kind (another
    stage, an uneven shard).

    Parameters
    ----------
    private : axes along which every parameter is another one.
    split : as in `Plan`.
    without : names of parameters that are not counted.
    """
    axes = tuple(axis for axis in groups.names if axis != "data" or any("data" in each for each in split.values()))
    squares = torch.zeros(1 << len(axes), dtype=torch.float64, device=device.device())
    by_set: dict[int, list[Tensor]] = {}
    for name, param in model.named_parameters():
        if (grad := touched.gradient_of(param)) is not None and name not in without:
            over = (*split_axes(param), *split.get(name, ()), *private)
            by_set.setdefault(sum(1 << bit for bit, axis in enumerate(axes) if axis in over), []).append(local(grad))
    for number, grads in by_set.items():
        squares[number] = torch.stack(torch._foreach_norm(grads)).double().square().sum()
    numbers = torch.arange(len(squares), device=squares.device)
    for bit, axis in enumerate(axes):
        is_split = (numbers >> bit) % 2 == 1
        added = torch.where(is_split, squares, 0.0)
        dist.all_reduce(added, group=groups.of((axis,)))
        squares = torch.where(is_split, added, squares)
    return float(squares.sum().sqrt())
