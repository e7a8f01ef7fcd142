"""The axis `data`: every rank has the whole model and a part of the batch; summed gradients are added by all-reduce.

Gradients travel as a few flat vectors and not one by one: 8.4 million parameters in about 60 tensors cost one call for each 4
MB. With equal parts on W ranks each sends 2 (W − 1) / W times the gradient's bytes, what a ring needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gyral.model.task import Batch, Sums, Task
from gyral.train.loader import Part
from gyral.train.parallel import touched
from gyral.train.parallel.mesh import refuse_batch_norm
from gyral.train.parallel.strategy import Alone, Totals, accumulate, divided, flat_sums, from_flat
from gyral.train.parallel.wire import Wire, summed

BUCKET_BYTES = 4 << 20


class Data(Alone):
    """All-reduce over one process group.

    Parameters
    ----------
    group : of the ranks that share the batch; None: all.
    wire : how gradients are sent.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, wire: Wire = "f32") -> None:
        self.group, self.wire = group, wire
        self._left: Tensor | None = None
        self.num_ranks = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self.is_first = self.evaluates = self.rank == 0

    def place(self, task: Task, model: nn.Module) -> nn.Module:
        """All begin with the values of the first."""
        refuse_batch_norm(model)
        model = super().place(task, model)
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor, group_src=0, group=self.group)
        return model

    def settle(self, step: int) -> Part:
        """Parts in the order of ranks."""
        return Part(self.rank, self.num_ranks)

    def forward_backward(self, batches: Sequence[Batch]) -> Sums:
        """As alone; what compares rows sees those of all ranks."""
        return accumulate(self.task, self.model, batches, self.gather, self.autocast)

    def reduce(self, sums: Sums) -> Totals | None:
        """Sum gradients and sums over the ranks."""
        grads, params = [], list(self.model.parameters())
        whole = touched.add_over(params, self.group)
        for param in params:
            if param.requires_grad and (touched.of(param) is None or any(param is each for each in whole)):
                if param.grad is None:
                    param.grad = torch.zeros_like(param)
                grads.append(param.grad)
        if self.wire == "f32":
            add_over(grads, self.group)
        else:
            self._add_over(grads)
        flat = flat_sums(sums)
        dist.all_reduce(flat, group=self.group)
        return divided(self.model, from_flat(flat, sums))

    def _add_over(self, grads: Sequence[Tensor]) -> None:
        """The same in fewer bytes; what rounding leaves out is kept for the next step."""
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        if self._left is None:
            self._left = torch.zeros_like(flat)
        total, start = summed(flat, self.wire, self.group, self._left), 0
        for grad in grads:
            grad.copy_(total[start : start + grad.numel()].view_as(grad))
            start += grad.numel()

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks; see `gathered`."""
        return gathered(tensor, self.group)

    def close(self) -> None:
        """Wait for each other, then part."""
        dist.barrier(group=self.group)


def add_over(tensors: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
    """Replace each tensor by its sum over the ranks of a group, which hold alike ones."""
    for bucket in buckets(tensors, BUCKET_BYTES):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat, group=group)
        start = 0
        for tensor in bucket:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()


def buckets(tensors: Sequence[Tensor], size_bytes: int) -> list[list[Tensor]]:
    """Neighbours of one type together, up to a size."""
    found: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        num_bytes = tensor.numel() * tensor.element_size()
        if not found or size + num_bytes > size_bytes or found[-1][0].dtype != tensor.dtype:
            found.append([])
            size = 0
        found[-1].append(tensor)
        size += num_bytes
    return found


class _Gathered(torch.autograd.Function):
    """Concatenate the rows of all ranks; the gradient of a row is the sum of what every rank's loss says of it."""

    @staticmethod
    def forward(context, tensor, group):  # type: ignore[no-untyped-def]
        context.group, context.num_rows = group, tensor.shape[0]
        counts = [torch.zeros((), dtype=torch.int64, device=tensor.device) for _ in range(dist.get_world_size(group))]
        dist.all_gather(counts, torch.tensor(tensor.shape[0], device=tensor.device), group=group)
        context.counts = [int(count) for count in counts]
        longest = max(context.counts)
        padded = torch.zeros(longest, *tensor.shape[1:], dtype=tensor.dtype, device=tensor.device)
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in context.counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, context.counts, strict=True)])

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed, group=context.group)
        start = sum(context.counts[: dist.get_rank(context.group)])
        return summed[start : start + context.num_rows], None


def gathered(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Rows of all ranks of a group in their order, [sum of B, …]; differentiable."""
    rows: Tensor = _Gathered.apply(tensor, group)
    return rows
