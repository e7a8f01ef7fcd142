"""The axis `tensor`: matrices are split as their roles say, activations stay whole; two all-reduces a block, each way.

    column       x → [copy] → x Wᵀ of our rows of W            copy: backward adds the gradients of x over the ranks
    row          x (our columns) → x Wᵀ → [add] + bias         add: forward adds the results over the ranks
    vocabulary   looks up the ids that are ours → [add]
    logits       [copy] → x Wᵀ of our rows → [join]            join: forward puts the columns together

Modules that take the same input share one copy, so query, key and value cost one all-reduce in the backward pass and not three.
Parameters are DTensors, also those that are not split, so that the optimizer, sharding and checkpoints see one kind; but
modules compute on what a rank holds, with plain tensors: a DTensor operation costs tens of microseconds more.

Bytes that one rank sends a step over t ranks, with A = bytes of the stream [B, T, D] and L = bytes of the logits [B, T, V]:
forward 2 (t − 1) / t (2 blocks + 1) A + (t − 1) / t L, backward 2 (t − 1) / t (2 blocks + 1) A. A tied embedding is split once.

Source: Shoeybi et al. 2019 (Megatron-LM), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from gyral.errors import ConfigError
from gyral.model.nets.dropout import RowDropout
from gyral.model.nets.sequence import Sequence
from gyral.model.roles import Role, Roles, pattern_of
from gyral.train.parallel.local import Local, local, on_local

if TYPE_CHECKING:
    from gyral.train.parallel.meshed import Plan

WEIGHT_DIM: dict[Role, int] = {"column": 0, "row": 1, "vocabulary": 0, "logits": 0}
KINDS: dict[Role, type[nn.Module]] = {"column": nn.Linear, "row": nn.Linear, "vocabulary": nn.Embedding, "logits": nn.Linear}


def place(model: nn.Module, plan: Plan) -> None:
    """Split every module by its role.

    Raises
    ------
    ConfigError : the axis does not divide the heads, or a role does not fit its module.
    """
    mesh = plan.mesh["tensor"]
    roles = plan.task.roles
    refuse_uneven(model, roles, mesh.size())
    made: dict[int, DTensor] = {}
    shared = Copies(mesh.get_group())
    for name, module, role in list(roles.modules(model)):
        if role in KINDS and not isinstance(module, KINDS[role]):
            raise ConfigError(
                f"`{name}` has the role `{role}`, but is a {type(module).__name__}", where="train.parallel.tensor",
                hint=f"it must be a {KINDS[role].__name__}, or have no role",
            )  # fmt: skip
        split(name, module, role, mesh, made)
        module.forward = forward_of(module, role, mesh, shared)
    for module in model.modules():
        if isinstance(module, RowDropout) and module.width:  # it drops of our columns what it would of them in a whole row
            module.first = min(module.width, mesh.get_local_rank() * -(-module.width // mesh.size()))
        if isinstance(module, Sequence):  # it multiplies with its table, which is not split
            module.matrix = on_local_matrix(module)  # type: ignore[method-assign]


def on_local_matrix(module: Sequence) -> Callable[[], tuple[Tensor, Tensor]]:
    """The table that a model multiplies with, as a plain tensor."""
    return lambda: (local(module.objects.weight), local(module.bias.weight).squeeze(-1))


def refuse_uneven(model: nn.Module, roles: Roles, size: int) -> None:
    """Raise where a head would be cut through."""
    if not roles.attention:
        return
    pattern = pattern_of(roles.attention)
    for name, module in model.named_modules():
        if not pattern.fullmatch(name):
            continue
        by_heads = getattr(module, "by_heads", None)
        for part, linear in module.named_children():
            if by_heads is not None and part not in by_heads:
                continue
            if roles.of(f"{name}.{part}") == "column" and isinstance(linear, nn.Linear):
                heads = linear.out_features // int(getattr(module, "head_width"))  # noqa: B009
                if heads % size:
                    raise not_dividing(size, heads, f"`{name}.{part}`")


def not_dividing(size: int, heads: int, where: str) -> ConfigError:
    """The error of heads that cannot be shared out evenly."""
    allowed = [str(each) for each in range(1, heads + 1) if heads % each == 0]
    numbers = " or ".join(filter(None, [", ".join(allowed[:-1]), allowed[-1]]))
    return ConfigError(
        f"`train.parallel.tensor = {size}` does not divide the model's {heads} heads",
        where="train.parallel", why=f"{where} has so many", hint=f"use {numbers}",
    )  # fmt: skip


def split(name: str, module: nn.Module, role: Role, mesh: DeviceMesh, made: dict[int, DTensor]) -> None:
    """Replace a module's own parameters by DTensors; one that several modules share stays one.

    Parameters
    ----------
    made : id of a plain parameter → what it became.
    """
    for key, param in list(module.named_parameters(recurse=False)):
        how: Placement = Replicate()
        if role in WEIGHT_DIM and (key == "weight" or role != "row"):
            how = Shard(WEIGHT_DIM[role] if key == "weight" else 0)
        if isinstance(param, DTensor):  # set by an earlier owner of the same parameter
            placed: DTensor = param
        elif id(param) in made:
            placed = made[id(param)]
        else:
            data = distribute_tensor(param.detach(), mesh, [how], src_data_rank=None)
            placed = nn.Parameter(data, requires_grad=param.requires_grad)  # type: ignore[assignment]
            made[id(param)] = placed
        if placed.placements != (how,):
            raise ConfigError(
                f"`{name}.{key}` is shared by modules that split it differently", where="train.parallel.tensor",
                hint="train with it untied, such as `--set lm.tied=false`, or without the axis `tensor`",
            )  # fmt: skip
        setattr(module, key, placed)


def forward_of(module: nn.Module, role: Role, mesh: DeviceMesh, shared: Copies) -> Callable[..., Any]:
    """How a module of a role is called from now on."""
    plain, group = module.forward, mesh.get_group()
    if role in ("column", "logits"):
        size = module.out_features

        def column(x: Tensor) -> Tensor:
            with Local(module):
                y: Tensor = plain(shared.of(x) if role == "column" else shared.only(x))
            return y if role == "column" else _Join.apply(y, group, size)

        return column
    if role == "row":

        def row(x: Tensor) -> Tensor:
            shared.forget()
            with Local(module) as own:
                bias, module._parameters["bias"] = own.get("bias"), None
                y: Tensor = _Add.apply(plain(x), group)
            return y if bias is None else y + bias.to(y.dtype)

        return row
    if role == "vocabulary":
        total = module.get_parameter("weight").shape[0]
        first = min(total, mesh.get_local_rank() * -(-total // mesh.size()))  # as `torch.chunk` cuts

        def vocabulary(ids: Tensor) -> Tensor:
            with Local(module) as own:
                num = own["weight"].shape[0]
                is_ours = (ids >= first) & (ids < first + num)
                found: Tensor = plain(torch.where(is_ours, ids - first, 0))
                return _Add.apply(found * is_ours.unsqueeze(-1).to(found.dtype), group)

        return vocabulary

    return on_local(module)


class Copies:
    """One copy for all modules that are given the same tensor one after the other."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._last: tuple[Tensor, Tensor] | None = None

    def of(self, x: Tensor) -> Tensor:
        """The copy of a tensor."""
        if self._last is None or self._last[0] is not x or self._last[1].requires_grad != _needs_graph(x):
            self._last = x, _Copy.apply(x, self._group)
        return self._last[1]

    def only(self, x: Tensor) -> Tensor:
        """A copy nobody shares."""
        self.forget()
        return _Copy.apply(x, self._group)

    def forget(self) -> None:
        """Hold on to nothing."""
        self._last = None


def _needs_graph(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


class _Copy(torch.autograd.Function):
    """The same forward; backward adds over the ranks."""

    @staticmethod
    def forward(context, tensor, group):  # type: ignore[no-untyped-def]
        context.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=context.group)
        return gradient, None


class _Add(torch.autograd.Function):
    """Forward adds over the ranks; the same backward."""

    @staticmethod
    def forward(context, tensor, group):  # type: ignore[no-untyped-def]
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(tensor, group=group)
        return tensor

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return gradient, None


class _Join(torch.autograd.Function):
    """Forward puts the columns of all ranks together, [..., size]; backward takes ours back."""

    @staticmethod
    def forward(context, tensor, group, size):  # type: ignore[no-untyped-def]
        ranks = dist.get_world_size(group)
        longest = -(-size // ranks)
        context.first, context.num = dist.get_rank(group) * longest, tensor.shape[-1]
        padded = torch.nn.functional.pad(tensor, (0, longest - context.num)).contiguous()
        parts = [torch.empty_like(padded) for _ in range(ranks)]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[..., : max(0, size - rank * longest)] for rank, part in enumerate(parts)], dim=-1)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        return gradient[..., context.first : context.first + context.num], None, None
