"""Embedding tables spread over the ranks that have different rows of the batch: `train.tables`.

| layout | who holds what | a step sends, for M distinct ids a rank and W ranks, each of (W − 1) / W |
|---|---|---|
| `row` | each rank nearly the same number of ids | 2 M D numbers a rank: vectors come, gradients go; ids before |
| `column` | each rank some columns of every vector | the same; ids go to all |
| `table` | each table lies whole on one rank, the largest first to whoever has least | the same; only owners answer |

Against a table on every rank, whose gradient of all ids is reduced: 2 numbers a cell of the table. An id that occurs often in
a rank's batch is asked for once, and its gradients are added before they are sent. What arrives at the owner is the gradient
summed over all ranks, so nothing reduces it again.

A spread parameter is a DTensor under its own name (`row`: dim 0 cut, `column`: dim 1), or is missing where another rank has the
table, as experts and stages are: a checkpoint is resharded without knowing any of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from gyral.errors import ConfigError
from gyral.model.nets.tables import Table
from gyral.train.parallel.exchange import exchanged, exchanged_counts

if TYPE_CHECKING:
    from gyral.train.parallel.meshed import Plan

WHERE = "train.tables"
AXES = ("data", "shard")
Lookup = Callable[[Tensor], Tensor]


def place(model: nn.Module, plan: Plan) -> None:
    """Spread all tables of a model over the ranks that have different rows.

    Raises
    ------
    ConfigError : there are none, one is used by two modules, its columns do not divide, or the mesh has other axes.
    """
    tables, layout = plan.task.roles.named(model, "table"), plan.train.tables
    if others := [axis for axis in plan.axes if axis not in AXES]:
        raise ConfigError(f"tables cannot be spread over a mesh with `{others[0]}`", where=WHERE, hint="use `data` and `shard`")
    if not tables:
        raise ConfigError("this model has no tables to spread", where=WHERE, hint="`--set train.tables=replicate`")
    mesh = plan.mesh[plan.axes]._flatten("_".join(plan.axes)) if len(plan.axes) > 1 else plan.mesh
    size, shared = mesh.size(), _shared(model)
    load = [0] * size
    for name, module in sorted(tables, key=lambda each: (-_weight(each[1]).numel(), each[0])):
        num, width = _weight(module).shape
        if f"{name}.weight" in shared:
            raise ConfigError(f"the table {name} is also read as a matrix", where=WHERE, hint="`--set train.tables=replicate`")
        if layout == "column" and width % size:
            raise ConfigError(f"{size} ranks do not divide the {width} columns of {name}", where=WHERE, hint="use `row`")
        owner = load.index(min(load))
        load[owner] += num * width
        _replace(module, _spread(module, layout, owner, mesh))
        plan.split[f"{name}.weight"] = plan.axes
        if module.weight is not None:
            plan.apart.add(module.get_parameter("weight"))
    plan.together.update(AXES)
    if layout == "table":
        plan.missing.update(plan.axes)


def _weight(module: nn.Module) -> Tensor:
    weight: Tensor = module.get_parameter("weight")
    return weight


def _shared(model: nn.Module) -> set[str]:
    """Names of parameters that have another name too."""
    names: dict[int, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
    return {name for each in names.values() if len(each) > 1 for name in each}


def _replace(module: nn.Module, lookup: Lookup) -> None:
    """Let a module read its table another way."""
    if isinstance(module, Table):
        module.rows = lookup  # type: ignore[assignment, method-assign]
    elif isinstance(module, nn.Embedding) and module.max_norm is None:
        module.forward = lookup  # type: ignore[assignment, method-assign]
    else:
        raise ConfigError(f"a {type(module).__name__} cannot be spread", where=WHERE, hint="`train.tables=replicate`")


def _spread(module: nn.Module, layout: str, owner: int, mesh: DeviceMesh) -> Lookup:
    """Cut a table, and give the way to read it."""
    weight = _weight(module)
    num, width = weight.shape
    group, size, rank = mesh.get_group(), mesh.size(), mesh.get_local_rank()
    if layout == "table":
        if rank != owner:
            module.register_parameter("weight", None)
        bounds = torch.tensor([0 if each <= owner else num for each in range(size)] + [num])
    else:
        cut = distribute_tensor(weight.detach(), mesh, [Shard(0 if layout == "row" else 1)], src_data_rank=None)
        module.register_parameter("weight", nn.Parameter(cut))
        share = -(-num // size)
        bounds = torch.tensor([min(each * share, num) for each in range(size)] + [num])
    first = 0 if layout == "column" else int(bounds[rank])
    unlearned: int | None = getattr(module, "padding_idx", None)

    def rows(ids: Tensor) -> Tensor:
        """Our part of the vectors of ids, [M, width or columns of it]."""
        if module.weight is None:
            return torch.zeros(len(ids), width, dtype=weight.dtype).requires_grad_()
        found = _weight(module)
        local = found.to_local() if isinstance(found, DTensor) else found
        place = -1 if unlearned is None else unlearned - first
        return F.embedding(ids - first, local, padding_idx=place if 0 <= place < len(local) else None)

    def lookup(ids: Tensor) -> Tensor:
        distinct_M, at = ids.unique(return_inverse=True)
        if layout == "column":
            send = [len(distinct_M)] * size
            x_MD = _read(distinct_M.repeat(size), send, rows, group)
            x_MD = x_MD.view(size, len(distinct_M), -1).transpose(0, 1).flatten(1)
        else:
            send = torch.searchsorted(distinct_M, bounds).diff().tolist()
            x_MD = _read(distinct_M, send, rows, group)
        return F.embedding(at, x_MD)

    return lookup


def _read(ids: Tensor, send: list[int], rows: Lookup, group: dist.ProcessGroup) -> Tensor:
    """Ask the owners for vectors: ids go, vectors come, in the order of the ids."""
    receive = exchanged_counts(torch.tensor(send), group).tolist()
    asked = exchanged(ids, send, receive, group)
    return exchanged(rows(asked), receive, send, group)
