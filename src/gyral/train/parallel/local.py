"""DTensors and what this rank holds of them: parameters are DTensors, modules compute on the parts.

A DTensor says which part of which tensor a rank holds, which is what the optimizer, the norm, sharding and checkpoints need. An
operation on one costs tens of microseconds more than on a tensor, and refuses to be mixed with one; so none is computed on.

To load them takes .4 s of CPU, a fifth of what a rank needs to start; where nobody has, no parameter can be one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import Tensor, nn

from gyral.train.parallel.data import gathered

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_spread(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def split_axes(param: Tensor) -> tuple[str, ...]:
    """Axes along which ranks hold other parts of a parameter."""
    if not is_spread(param):
        return ()
    names = param.device_mesh.mesh_dim_names or ()
    return tuple(name for name, how in zip(names, param.placements, strict=True) if not how.is_replicate())


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; sharing its memory."""
    return tensor.to_local() if is_spread(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every rank that holds a part of it calls this.

    Axes are undone from the outermost: the placers cut from the inside out. torch's own `full_tensor` gives the same, with a
    warning where one dim is cut twice.
    """
    if not is_spread(tensor):
        return tensor
    mesh, found = tensor.device_mesh, tensor.to_local().detach()
    for number, how in enumerate(tensor.placements):
        if not how.is_replicate():
            dim: int = how.dim  # type: ignore[attr-defined]
            found = gathered(found.transpose(0, dim), mesh.get_group(number)).transpose(0, dim).contiguous()
    return found


class Local:
    """While it is open, a module's own parameters are what this rank holds of them; gradients go to the DTensors."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = module._parameters

    def __enter__(self) -> dict[str, Any]:
        self._kept = dict(self.parameters)
        for name, param in self._kept.items():
            if param is not None and is_spread(param):
                self.parameters[name] = param.to_local()  # type: ignore[assignment]
        return dict(self.parameters)

    def __exit__(self, *_: object) -> None:
        self.parameters.update(self._kept)


def on_local(module: nn.Module) -> Callable[..., Any]:
    """The call of a module, with what this rank holds of its own parameters."""
    plain = module.forward

    def forward(*inputs: Any, **named: Any) -> Any:
        with Local(module):
            return plain(*inputs, **named)

    return forward
