"""What a checkpoint is made of, whatever the mesh: named tensors, each rank's chunks of them, and who writes which.

A tensor is plain (whole on each rank that has it) or a DTensor (a rank has the chunk at some offset of it). Names are those of
the plain model, so a mesh means nothing for what is stored:

    model.blocks.0.feed.up.weight                  parameters and buffers
    optimizer.blocks.0.feed.up.weight.exp_avg      what the optimizer keeps of a parameter
    strategy.…, ema.…                              what the strategy and other parts keep over a restart

Who writes is agreed once: every rank tells its chunks, one that several have is written by the one of them with the least to
write so far. That is one exchange a run instead of one a save (torch's `dcp.save` gathers and scatters plans, pickled, each
time), and data-parallel ranks share the writing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gyral.errors import InputError
from gyral.train.parallel.local import is_spread

Tensors = dict[str, Tensor]
WRAPPERS = re.compile(r"_orig_mod\.|_checkpoint_wrapped_module\.|_fsdp_wrapped_module\.")
"""Parts of a name that compiling or recomputing a block adds."""


DOT = ":"
"""Stands for a dot within one key of a state."""


class Chunk(NamedTuple):
    """Where a rank's part of a tensor begins, its shape, and its values."""

    name: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    values: Tensor

    @property
    def key(self) -> str:
        return f"{self.name}@{','.join(map(str, self.offsets))}"


class State(NamedTuple):
    """Everything that a rank has to keep: tensors and numbers by name, and other names of parameters."""

    tensors: Tensors
    numbers: dict[str, Any]
    aliases: dict[str, str]


def state_of(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], parts: Mapping[str, Mapping[str, Any]]) -> State:
    """The state as it is; tensors are those in use, not copies.

    Parameters
    ----------
    optimizers : whose `state` is by parameter.
    parts : name → nested dicts of tensors and of what JSON can hold.
    """
    tensors: Tensors = {f"model.{name}": param.detach() for name, param in parameters_of(model).items()}
    tensors |= {f"model.{name}": buffer for name, buffer in buffers_of(model).items()}
    numbers: dict[str, Any] = {}
    names = {id(param): name for name, param in parameters_of(model).items()}
    for inner in optimizers:
        for param, slots in inner.state.items():
            _flatten(f"optimizer.{names[id(param)]}", slots, tensors, numbers)
    for part, kept in parts.items():
        _flatten(part, kept, tensors, numbers)
    return State(tensors, numbers, aliases_of(model))


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by the names of the plain model, each once."""
    return {plain(name): param for name, param in model.named_parameters()}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that are part of a model's state."""
    kept = set(model.state_dict(keep_vars=True))
    return {plain(name): buffer for name, buffer in model.named_buffers() if name in kept}


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Further names of parameters that have several → the first."""
    first = {id(param): name for name, param in parameters_of(model).items()}
    every = ((plain(name), param) for name, param in model.named_parameters(remove_duplicate=False))
    return {name: first[id(param)] for name, param in every if name != first[id(param)]}


def plain(name: str) -> str:
    """A name without what wrappers add."""
    return WRAPPERS.sub("", name)


def chunks_of(tensors: Tensors) -> list[Chunk]:
    """This rank's parts; those of no elements are left out. The largest element types come first, so all are aligned."""
    found = []
    for name, tensor in tensors.items():
        if is_spread(tensor):
            from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

            shape, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
            local = tensor.to_local()
        else:
            shape, offsets, local = tuple(tensor.shape), (0,) * tensor.dim(), tensor
        if local.numel():
            found.append(Chunk(name, tuple(offsets), tuple(shape), local))
    return sorted(found, key=lambda chunk: -chunk.values.element_size())


def mine(chunks: list[Chunk], exchange: Callable[[bytes], list[bytes]], rank: int) -> list[Chunk]:
    """Those that this rank writes.

    Parameters
    ----------
    exchange : what all ranks said, in their order, for what this one says.

    Raises
    ------
    InputError : two ranks have parts of one tensor that do not fit.
    """
    told = msgspec.json.encode([(each.key, list(each.shape), each.values.nbytes) for each in chunks])
    holders: dict[str, list[int]] = {}
    shapes: dict[str, tuple[list[int], int]] = {}
    for number, text in enumerate(exchange(told)):
        for key, shape, size in msgspec.json.decode(text, type=list[tuple[str, list[int], int]]):
            if shapes.setdefault(key, (shape, size)) != (shape, size):
                raise InputError(f"ranks differ in the shape of `{key}`", why=f"{shape} and {shapes[key][0]}")
            holders.setdefault(key, []).append(number)
    load: dict[int, int] = {}
    chosen: set[str] = set()
    for key, having in holders.items():
        writer = min(having, key=lambda each: (load.get(each, 0), each))
        load[writer] = load.get(writer, 0) + shapes[key][1]
        if writer == rank:
            chosen.add(key)
    return [chunk for chunk in chunks if chunk.key in chosen]


def exchanged(text: bytes) -> list[bytes]:
    """What every rank of the default group says; alone, where there is none. JSON travels, nothing is pickled."""
    if not (dist.is_available() and dist.is_initialized()):
        return [text]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    size = torch.tensor([len(text)], dtype=torch.int64, device=device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    padded = torch.zeros(int(max(sizes)), dtype=torch.uint8, device=device)
    padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[: int(each)].cpu().numpy().tobytes() for part, each in zip(parts, sizes, strict=True)]


def slot_like(param: Tensor, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for what an optimizer keeps of a parameter: spread as the parameter is, where their leading dims agree.

    Values of the parameter's shape, one a row ([R] or [R, 1] of [R, D]), or one in all, as `step` always is.
    """
    if name == "step":
        return torch.zeros(shape, dtype=dtype)
    is_rowwise = len(shape) in (1, param.dim()) and shape[:1] == tuple(param.shape[:1]) and all(each == 1 for each in shape[1:])
    if tuple(shape) == tuple(param.shape):
        return torch.zeros_like(param.detach(), dtype=dtype)
    if is_spread(param) and is_rowwise and param.dim() > 1:
        from torch.distributed.tensor import DTensor, Replicate, Shard

        kept = [each if isinstance(each, Shard) and each.dim == 0 else Replicate() for each in param.placements]
        local = torch.zeros((param.to_local().shape[0], *shape[1:]), dtype=dtype, device=param.to_local().device)
        stride = (1,) * len(shape)
        return DTensor.from_local(local, param.device_mesh, kept, run_check=False, shape=torch.Size(shape), stride=stride)
    return torch.zeros(shape, dtype=dtype)


def nested(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The dicts whose flattened names begin so."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        if name.startswith(prefix + "."):
            *parents, leaf = (part.replace(DOT, ".") for part in name[len(prefix) + 1 :].split("."))
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree


def _flatten(name: str, value: Any, tensors: Tensors, numbers: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, each in value.items():
            _flatten(f"{name}.{str(key).replace('.', DOT)}", each, tensors, numbers)
    elif isinstance(value, Tensor):
        tensors[name] = value.detach()
    else:
        numbers[name] = value
