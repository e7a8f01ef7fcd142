"""Which tensors of a model, its optimizer and its strategy a checkpoint fills, and room for those that are not there yet.

An optimizer has no state before its first step; the room for it follows from what the checkpoint holds of each parameter. A
parameter that has two names (a tied matrix, which two stages of a pipeline hold apart) is found under either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gyral.train import layout
from gyral.train.saved import Saved, refused

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata


def wanted(
    found: Saved,
    shapes: Mapping[str, TensorStorageMetadata],
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    parts: Mapping[str, Mapping[str, Any]],
) -> tuple[layout.Tensors, layout.Tensors]:
    """Which tensors are to be filled. Numbers of the optimizer are put in place at once.

    Parameters
    ----------
    shapes : of what the checkpoint holds.
    parts : state of the strategy and others as it is; what it holds is filled in the same layout.

    Returns
    -------
    filled, given : name in the checkpoint → tensor to be filled; those of `parts` by the names that they have there. A part
    that has no tensors yet is given all that the checkpoint has of it, whole.

    Raises
    ------
    InputError : the checkpoint is of another model.
    """
    filled: layout.Tensors = {}
    given: layout.Tensors = {}
    aliases = found.manifest.aliases
    for name, tensor in layout.state_of(model, [], parts).tensors.items():
        source = named_so(name, shapes, aliases)
        if tensor.numel() and source in shapes:
            check_shape(source, shapes[source], tensor, found.folder)
            filled[source] = tensor
            if not name.startswith("model."):
                given[name] = tensor
        elif tensor.numel() and name.startswith("model."):
            raise refused(f"the checkpoint has no `{name}`", "it is of another model", found.folder)
    filled |= slots(found, shapes, model, optimizers)
    begun = {name.partition(".")[0] for name in given}
    for name, held in shapes.items():
        if (part := name.partition(".")[0]) in parts and part not in begun:
            filled[name] = given[name] = torch.zeros(held.size, dtype=held.properties.dtype)
    return filled, given


def slots(
    found: Saved, shapes: Mapping[str, TensorStorageMetadata], model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> layout.Tensors:
    """Room for what the optimizers keep of each parameter, by name in the checkpoint."""
    numbers, aliases = found.manifest.numbers, found.manifest.aliases
    kept: dict[str, list[str]] = {}
    for key in [*shapes, *numbers]:
        if key.startswith("optimizer."):
            owner, _, slot = key.rpartition(".")
            kept.setdefault(owner, []).append(slot)
    owners = {id(param): inner for inner in optimizers for group in inner.param_groups for param in group["params"]}
    filled: layout.Tensors = {}
    for name, param in layout.parameters_of(model).items():
        source = named_so(f"optimizer.{name}", kept, aliases)
        if (inner := owners.get(id(param))) is None:
            continue
        inner.state.pop(param, None)
        for slot in kept.get(source, []):
            key = f"{source}.{slot}"
            if key in numbers:
                inner.state[param][slot] = numbers[key]
                continue
            inner.state[param][slot] = filled[key] = layout.slot_like(
                param, slot, tuple(shapes[key].size), shapes[key].properties.dtype
            )
    return filled


def named_so(name: str, there: Collection[str], aliases: dict[str, str]) -> str:
    """Name under which a checkpoint has a parameter, or what is kept of it, that may be there under another of its names."""
    if name in there:
        return name
    for first, second in [*aliases.items(), *((second, first) for first, second in aliases.items())]:
        for own, other in ((first, second), (first.replace(".", layout.DOT), second.replace(".", layout.DOT))):
            if name.endswith("." + own) and (found := name.removesuffix(own) + other) in there:
                return found
    return name


def check_shape(name: str, held: TensorStorageMetadata, tensor: Tensor, folder: Path) -> None:
    """Refuse a tensor of another shape."""
    if tuple(held.size) != tuple(tensor.shape):
        why = f"`{name}` is {list(held.size)} there and {list(tensor.shape)} here"
        raise refused("the checkpoint is of another model", why, folder)
