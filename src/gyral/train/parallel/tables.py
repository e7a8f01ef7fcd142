"""Embedding tables spread over the ranks that have different rows of the batch: `train.tables`.

| layout | who holds what | a step sends, for M distinct ids a rank and W ranks, each of (W − 1) / W |
|---|---|---|
| `row` | each rank nearly the same number of ids | 2 M D numbers a rank: vectors come, gradients go; ids before |
| `column` | each rank some columns of every vector | the same; ids go to all |
| `table` | each table lies whole on one rank, the largest first to whoever has least | the same; only owners answer |

Against a table on every rank, whose gradient of all ids is reduced: 2 numbers a cell of the table. An id that occurs often in
a rank's batch is asked for once, and its gradients are added before they are sent. What arrives at the owner is the gradient
summed over all ranks, so nothing reduces it again; with `optim.tables = "rowwise_adagrad"` it is that of the rows asked for,
and an owner's step costs those (`touched`).

A table that is also the output matrix (full softmax) is scored where its rows lie (`softmax`), in the layout `row`; in the
others it is fetched, V D numbers a pass. Evaluation, which needs all scores of all objects, fetches it in every layout.

Tables are spread over `data` and `shard`, along which ranks have other rows of the batch. Along `tensor` rows are the same:
every rank of it holds the same part, computes the same gradient and makes the same update, so nothing is sent along it.

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

from gyral.errors import ConfigError
from gyral.model.nets.sequence import Sequence
from gyral.train.parallel import touched
from gyral.train.parallel.exchange import exchanged, exchanged_counts
from gyral.train.parallel.local import local
from gyral.train.parallel.softmax import nats_over

if TYPE_CHECKING:
    from gyral.train.parallel.meshed import Plan

WHERE = "train.tables"
AXES = ("data", "shard")
BESIDE = (*AXES, "tensor")
Lookup = Callable[[Tensor], Tensor]


def place(model: nn.Module, plan: Plan) -> None:
    """Spread all tables of a model over the ranks that have different rows.

    Raises
    ------
    ConfigError : there are none, one is used by two modules, its columns do not divide, or the mesh has other axes.
    """
    tables, layout = plan.task.roles.named(model, "table"), plan.train.tables
    axes = tuple(axis for axis in plan.axes if axis in AXES)
    if others := [axis for axis in plan.axes if axis not in BESIDE]:
        hint = "use `data` and `shard`, with `tensor` beside them"
        raise ConfigError(f"tables cannot be spread over a mesh with `{others[0]}`", where=WHERE, hint=hint)
    if not axes:
        why, hint = "along `tensor` ranks have the same rows of a batch", "`--parallel data=2,tensor=2`"
        raise ConfigError("tables are spread over `data` and `shard`", where=WHERE, why=why, hint=hint)
    if not tables:
        raise ConfigError("this model has no tables to spread", where=WHERE, hint="`--set train.tables=replicate`")
    mesh = plan.mesh[axes]._flatten("_".join(axes)) if len(axes) > 1 else plan.mesh[axes[0]]
    size, shared = mesh.size(), touched.shared(model)
    follows_rows = plan.train.optim.tables == "rowwise_adagrad"
    load = [0] * size
    for name, module in sorted(tables, key=lambda each: (-_weight(each[1]).numel(), each[0])):
        num, width = _weight(module).shape
        if f"{name}.weight" in shared:
            raise ConfigError(f"the table {name} is also read as a matrix", where=WHERE, hint="`--set train.tables=replicate`")
        how = "row" if layout == "column" and width < size else layout
        if how == "column" and width % size:
            raise ConfigError(f"{size} ranks do not divide the {width} columns of {name}", where=WHERE, hint="use `row`")
        owner = load.index(min(load))
        load[owner] += num * width
        if not touched.is_readable(module):
            raise ConfigError(f"a {type(module).__name__} cannot be spread", where=WHERE, hint="`train.tables=replicate`")
        touched.read_by(module, _spread(module, how, owner, mesh, follows_rows))
        plan.split[f"{name}.weight"] = axes
        if module.weight is not None:
            plan.apart.add(module.get_parameter("weight"))
    plan.together.update(AXES)
    if layout == "table":
        plan.missing.update(axes)
    if isinstance(model, Sequence):
        _score(model, layout, mesh)


def _weight(module: nn.Module) -> Tensor:
    return local(module.get_parameter("weight"))


def _score(model: Sequence, layout: str, mesh: DeviceMesh) -> None:
    """Let a model whose output matrix is a table score all objects."""
    everything = torch.arange(model.shape.objects)
    first = min(model.shape.objects, mesh.get_local_rank() * -(-model.shape.objects // mesh.size()))

    def matrix() -> tuple[Tensor, Tensor]:
        ids = everything.to(model.norm.weight.device)
        return model.objects(ids), model.bias(ids).squeeze(-1)

    model.matrix = matrix  # type: ignore[method-assign]
    if layout == "row":
        model.nats = nats_over(mesh.get_group(), first, lambda: (_weight(model.objects), _weight(model.bias).squeeze(-1)))


def _spread(module: nn.Module, layout: str, owner: int, mesh: DeviceMesh, follows_rows: bool) -> Lookup:
    """Cut a table, and give the way to read it."""
    weight = _weight(module)
    num, width = weight.shape
    group, size, rank = mesh.get_group(), mesh.size(), mesh.get_local_rank()
    if layout == "table":
        if rank != owner:
            module.register_parameter("weight", None)
        bounds = torch.tensor([0 if each <= owner else num for each in range(size)] + [num])
    else:
        from torch.distributed.tensor import Shard, distribute_tensor

        cut = distribute_tensor(weight.detach(), mesh, [Shard(0 if layout == "row" else 1)], src_data_rank=None)
        module.register_parameter("weight", nn.Parameter(cut))
        share = -(-num // size)
        bounds = torch.tensor([min(each * share, num) for each in range(size)] + [num])
    first = 0 if layout == "column" else int(bounds[rank])
    unlearned: int | None = getattr(module, "padding_idx", None)
    place = -1 if unlearned is None else unlearned - first
    followed = touched.follow(module.get_parameter("weight"), place) if follows_rows and module.weight is not None else None

    def rows(ids: Tensor) -> Tensor:
        """Our part of the vectors of ids, [M, width or columns of it]."""
        if module.weight is None:
            return torch.zeros(len(ids), width, dtype=weight.dtype).requires_grad_()
        held = _weight(module)
        if followed is not None:
            return followed.read(held, ids - first)
        return F.embedding(ids - first, held, padding_idx=place if 0 <= place < len(held) else None)

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
