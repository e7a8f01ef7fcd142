"""What ranks that hold other parameters tell each other: names, and the tensors under them.

A stage, an expert or a whole table lies on some ranks under its name and is missing on others. Words travel as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from gyral.train import device


def union(tensors: Mapping[str, Tensor], group: dist.ProcessGroup) -> dict[str, Tensor]:
    """The tensors of all ranks of a group by name, on every rank; one that several have is the first one's."""
    own = {name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()}
    said = [
        msgspec.json.decode(each, type=dict[str, tuple[list[int], str]]) for each in each_said(msgspec.json.encode(own), group)
    ]
    owners = {name: rank for rank in reversed(range(len(said))) for name in said[rank]}
    found = {}
    for name in sorted(owners):
        shape, kind = said[owners[name]][name]
        if owners[name] == dist.get_rank(group):
            tensor = tensors[name].contiguous()
        else:
            tensor = torch.empty(shape, dtype=getattr(torch, kind), device=device.device())
        dist.broadcast(tensor, group_src=owners[name], group=group)
        found[name] = tensor
    return found


def told(words: list[str] | None, group: dist.ProcessGroup) -> list[str]:
    """What the first rank that has words says."""
    said = [msgspec.json.decode(each, type=list[str] | None) for each in each_said(msgspec.json.encode(words), group)]
    return next(each for each in said if each is not None)


def each_said(data: bytes, group: dist.ProcessGroup) -> list[bytes]:
    """The bytes of every rank of a group."""
    sizes = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=device.device())
    sizes[dist.get_rank(group)] = len(data)
    dist.all_reduce(sizes, group=group)
    own = torch.zeros(int(sizes.max()), dtype=torch.uint8, device=device.device())
    own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    parts = [torch.empty_like(own) for _ in sizes]
    dist.all_gather(parts, own, group=group)
    return [bytes(part[: int(size)].cpu().numpy()) for part, size in zip(parts, sizes, strict=True)]


def swapped(tensor: Tensor, peer: int, group: dist.ProcessGroup) -> Tensor:
    """The tensor of another rank of a group, for ours."""
    got = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    there = dist.get_global_rank(group, peer)
    sends = dist.P2POp(dist.isend, tensor.contiguous(), there, group)
    for work in dist.batch_isend_irecv([sends, dist.P2POp(dist.irecv, got, there, group)]):
        work.wait()
    return got
