"""Gradients of the rows of a table that a step looks up, and of no others: a step costs what it touches.

Autograd's gradient of a lookup has the size of the table, and so has everything that is done to it: 64 numbers of a million
rows are 256 MB to fill with zeros, to divide, to add up for the norm. Here the distinct rows of a pass are copied out, and the
copy is the leaf that autograd knows: duplicates are summed exactly where they are met, and the gradient has as many rows as
there are distinct ids. Passes of one step are joined when somebody asks. `torch.sparse` was not taken: the norm refuses its
tensors (torch 2.13: no `linalg_vector_norm` for SparseCPU), and duplicates stay in them until they are coalesced.

A table that is also read as a matrix (full softmax) has a gradient of all rows anyway; the rows that were looked up are then
added to it, and nothing is saved.

Shapes: V rows of a table, D its width, R distinct rows of a step, W ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.tables import Table
from gyral.model.roles import Roles

NAME = "touched"
"""Attribute of a parameter that has one."""
Lookup = Callable[[Tensor], Tensor]


class Touched:
    """What a step does to one table.

    Parameters
    ----------
    param : the table, or the DTensor that this rank holds a part of.
    unlearned : a row whose gradient is not wanted (padding); −1: none.
    """

    def __init__(self, param: nn.Parameter, unlearned: int = -1) -> None:
        self.unlearned = unlearned
        self._param = param
        self._read: list[tuple[Tensor, Tensor]] = []
        self._joined: tuple[Tensor, Tensor] | None = None

    def read(self, weight: Tensor, ids: Tensor) -> Tensor:
        """Vectors of ids of any shape, [..., D]; `weight` is what this rank holds."""
        if not torch.is_grad_enabled():
            return F.embedding(ids, weight)
        rows_R, at = ids.unique(return_inverse=True)
        x_RD = weight.detach().index_select(0, rows_R).requires_grad_()  # a third of what indexing by a tensor costs
        self._read.append((rows_R, x_RD))
        return F.embedding(at, x_RD)

    @torch.no_grad()
    def gradient(self) -> Tensor | None:
        """Of the rows that were looked up, [R, D]; of all, where the table was read as a matrix too; None: of none."""
        joined = self.joined()
        if self._param.grad is not None and joined is not None:
            whole = self._param.grad
            whole = whole.to_local() if hasattr(whole, "to_local") else whole
            whole.index_add_(0, *joined)
            self._joined = joined = None
        return self._param.grad if joined is None else joined[1]

    def joined(self) -> tuple[Tensor, Tensor] | None:
        """Distinct rows, ascending, int64 [R], and their gradients [R, D], of all passes together; None: there are none."""
        parts = [(rows, x.grad) for rows, x in self._read if x.grad is not None]
        self._read = []
        if self._joined is not None:
            parts.insert(0, self._joined)
        if parts:
            self._joined = parts[0] if len(parts) == 1 else summed(*(torch.cat(each) for each in zip(*parts, strict=True)))
            if self.unlearned >= 0:
                rows, values = self._joined
                values[rows == self.unlearned] = 0
        return self._joined

    def replace(self, rows: Tensor, values: Tensor) -> None:
        """Have another gradient: that of all ranks."""
        self._joined = rows, values

    def forget(self) -> None:
        """Before the next step."""
        self._read, self._joined = [], None


def summed(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows, ascending, and the sums of their values."""
    distinct, at = rows.unique(return_inverse=True)
    return distinct, values.new_zeros(len(distinct), *values.shape[1:]).index_add_(0, at, values)


def of(param: Tensor) -> Touched | None:
    """What a step does to a parameter, if that is a table whose rows are followed."""
    found: Touched | None = param.__dict__.get(NAME)
    return found


def follow(param: nn.Parameter, unlearned: int = -1) -> Touched:
    """Keep gradients of touched rows of a table from now on; whoever reads it does so by `Touched.read`."""
    setattr(param, NAME, found := Touched(param, unlearned))
    return found


def gradient_of(param: Tensor) -> Tensor | None:
    """The gradient of a parameter, or of its touched rows."""
    found = of(param)
    return param.grad if found is None else found.gradient()


def forget(param: Tensor) -> None:
    """No gradient any more."""
    param.grad = None
    if (found := of(param)) is not None:
        found.forget()


def watch(model: nn.Module, roles: Roles) -> None:
    """Follow all tables of a model that lies whole in this process; those that two modules share are left as they are."""
    again = shared(model)
    for name, module in roles.named(model, "table"):
        if f"{name}.weight" not in again and is_readable(module):
            weight = module.get_parameter("weight")
            padding: int | None = getattr(module, "padding_idx", None)
            found = follow(weight, -1 if padding is None else padding)
            read_by(module, lambda ids, weight=weight, found=found: found.read(weight, ids))  # type: ignore[misc]


def is_readable(module: nn.Module) -> bool:
    """Whether all that a module does with its table is to look rows up."""
    return isinstance(module, Table) or (isinstance(module, nn.Embedding) and module.max_norm is None)


def read_by(module: nn.Module, lookup: Lookup) -> None:
    """Let a module read its table another way."""
    module.__dict__.pop("forward", None)  # of whoever placed it before
    if isinstance(module, Table):
        module.rows = lookup  # type: ignore[assignment, method-assign]
    else:
        module.forward = lookup


def shared(model: nn.Module) -> set[str]:
    """Names of parameters that have another name too."""
    names: dict[int, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
    return {name for each in names.values() if len(each) > 1 for name in each}


@torch.no_grad()
def add_over(params: Sequence[nn.Parameter], group: dist.ProcessGroup | None) -> list[nn.Parameter]:
    """Add touched rows over ranks that each have the whole table: R D numbers a rank to all others, and not 2 V D.

    Returns
    -------
    Those of the tables that have a gradient of all rows on some rank, which is to be added as any other is.
    """
    followed = [(param, found) for param in params if (found := of(param)) is not None]
    if not followed:
        return []
    num = dist.get_world_size(group)
    parts: list[tuple[Tensor, Tensor] | None] = []
    for param, found in followed:
        found.gradient()  # joins
        parts.append(None if param.grad is not None else found.joined() or _no_rows(param))
    told = torch.tensor([-1 if part is None else len(part[0]) for part in parts])
    counts = [torch.empty_like(told) for _ in range(num)]
    dist.all_gather(counts, told, group=group)
    counts_WP = torch.stack(counts)
    left = []
    for (param, found), part, counts_W in zip(followed, parts, counts_WP.T, strict=True):
        if int(counts_W.min()) < 0:  # a matrix on some rank
            if part is not None:
                param.grad = torch.zeros_like(param).index_add_(0, *part)
                found.forget()
            left.append(param)
        elif part is not None:
            found.replace(*summed(*(_of_all(each, counts_W.tolist(), group) for each in part)))
    return left


def _no_rows(param: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(0, dtype=torch.int64, device=param.device), param.new_zeros(0, param.shape[1])


def _of_all(tensor: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Rows of all ranks in their order; counts are known."""
    longest = max(counts)
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    if longest:
        dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
