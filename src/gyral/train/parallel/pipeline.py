"""The axis `pipeline`: each rank has some blocks; micro-batches run through, by a schedule of `torch.distributed.pipelining`.

| `train.schedule` | stages a rank | idle share of P ranks and M micro-batches |
|---|---|---|
| `gpipe`, `1f1b` | 1 | (P − 1) / (M + P − 1); 1f1b keeps P activations, not M |
| `interleaved` | 2 | half of that |
| `zero-bubble` | 2 | less: gradients of weights fill the gaps |
| `zbv` | 2, as a V | none in the steady state; first and last stage lie on one rank |

A boundary sends B T D numbers a micro-batch each way and nothing of the weights. Losses are sums, so micro-batches with unequal
numbers of targets need no weights. All micro-batches have the same shape: the last is filled up with rows that are left out of
the loss. What is tied over stages (embedding and output matrix) exists on the first and the last stage, which add their
gradients; the norm counts it once.

Everything else is `Meshed`, on the stages: the other axes place, reduce and clip as they do without a pipeline.

Source: Huang et al. 2019 (GPipe); Narayanan et al. 2021 (1F1B, interleaved); Qi et al. 2024 (zero bubble, V).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

from gyral.errors import ConfigError
from gyral.model.task import BaseTask, Batch, Sums, Task, moved
from gyral.train import device
from gyral.train.parallel import context, gathering, stages
from gyral.train.parallel.local import local
from gyral.train.parallel.meshed import Meshed, refuse_unlike
from gyral.train.parallel.strategy import Autocast, Totals, added

SCHEDULES: dict[str, Any] = {
    "gpipe": schedules.ScheduleGPipe,
    "1f1b": schedules.Schedule1F1B,
    "interleaved": schedules.ScheduleInterleaved1F1B,
    "zero-bubble": schedules.ScheduleInterleavedZeroBubble,
    "zbv": schedules.ScheduleZBVZeroBubble,
}
SPLIT_BACKWARD = ("zero-bubble", "zbv")
"""Schedules that compute the gradients of weights apart from those of inputs."""


class Pipeline(Meshed):
    """Meshed, where each rank along `pipeline` has its stages only."""

    private_axes = ("pipeline",)

    def place(self, task: Task, model: nn.Module) -> nn.Module:
        """Cut the model, and place each of our stages on the other axes.

        Raises
        ------
        ConfigError : the task compares rows or passes more than once, or the model cannot be cut.
        """
        if task.cross_sample or not task.one_pass or getattr(type(task), "loss", None) is not BaseTask.loss:
            raise ConfigError(f"the task {task.name} cannot be piped", where=stages.WHERE, hint="use `data` or `shard`")
        if self.train.schedule in SPLIT_BACKWARD and "shard" in self.groups.names:
            why = "gradients of weights that are computed apart are lost there in torch 2.13"
            raise ConfigError(
                "zero-bubble schedules cannot be sharded", where="train.schedule", why=why, hint="use `interleaved`"
            )
        refuse_unlike(model)
        self.group = self.groups.of(("pipeline",))
        rank, size = dist.get_rank(self.group), dist.get_world_size(self.group)
        numbers = stages.owned_stages(self.train.schedule, rank, size)
        self._num_stages = num = size * len(numbers)
        self._has_first, self._has_last = 0 in numbers, num - 1 in numbers
        self._set_rows()
        self._template = template = task.batch(np.zeros(1, np.int64), 0)
        if "context" in self.groups.names:
            template = context.cut(template, task.sequence, 0, self.groups.size("context"))
        every = stages.stages_of(model, task.roles, num)
        with self.autocast():
            examples = [
                self._example(each) for each in (task.inputs(template)[0], *stages.shapes(model, task.roles, task, template))
            ]
        self._further = stages.further_inputs(model)
        self._tied = stages.untied(model, every)
        placed = [super(Pipeline, self).place(task, every[number]) for number in numbers]
        self.model = stages.held(model, task.roles, placed, numbers, num)
        self.counted_elsewhere = {last for _, last in self._tied} if self._has_last else set()
        self._schedule = self._made(placed, numbers, *examples)
        return self.model

    def forward_backward(self, batches: Sequence[Batch]) -> Sums:
        """All micro-batches of the step through the schedule."""
        self._num_rows = sum(len(next(iter(batch.values()))) for batch in batches)
        filled = self._filled(batches)
        first, *further = self.task.inputs(filled)
        self._micro = [
            {name: tensor[low : low + self._rows] for name, tensor in filled.items()}
            for low in range(0, self._rows * self._num, self._rows)
        ]
        self._sums: Sums | None = None
        inputs = (first,) if self._has_first else ()
        last = {"target": torch.arange(self._num), "losses": []} if self._has_last else {}
        self._schedule.step(*inputs, return_outputs=False, **last, **dict(zip(self._further, further, strict=False)))
        return self._told(self._sums)

    @torch.no_grad()
    def reduce(self, sums: Sums) -> Totals | None:
        """As without a pipeline; then what the first and the last stage share is added."""
        totals = super().reduce(sums)
        params = dict(self.model.named_parameters(remove_duplicate=False))
        for names in self._tied:
            grads = [local(grad) for name in names if name in params and (grad := params[name].grad) is not None]
            if len(grads) == 2:
                grads[0].copy_(grads[0] + grads[1])
                grads[1].copy_(grads[0])
            elif grads and grads[0].numel():
                other = dist.get_world_size(self.group) - 1 if self._has_first else 0
                grads[0].add_(gathering.swapped(grads[0], other, self.group))
        return totals

    def _set_rows(self) -> None:
        """Shapes are fixed for the run: the most rows that a rank can have, cut into micro-batches, the last one filled up."""
        size, count = dist.get_world_size(self.group), self.settle(0).count
        rows = -(-self.train.batch // count)
        self._rows = self.train.microbatch or -(-rows // (2 * self._num_stages))
        self._num = -(-max(-(-rows // self._rows), self._num_stages) // size) * size

    def _made(self, placed: list[nn.Module], numbers: list[int], first: Tensor, stream: Tensor, outputs: Tensor) -> Any:
        """The schedule over our stages."""
        ends = {0: first, self._num_stages: outputs}
        made = [
            PipelineStage(
                module, number, self._num_stages, device.device(), group=self.group,
                input_args=ends.get(number, stream), output_args=ends.get(number + 1, stream),
            )
            for module, number in zip(placed, numbers, strict=True)
        ]  # fmt: skip
        kind = SCHEDULES[self.train.schedule]
        for stage in made:
            agreed = ends.get(stage.stage_index + 1, stream)
            stage.submod.forward = _under(stage.submod.forward, self.autocast, agreed)
        return kind(
            made if len(made) > 1 or "z" in self.train.schedule else made[0], self._num, loss_fn=self._loss, scale_grads=False
        )

    def _example(self, tensor: Tensor) -> Tensor:
        """What a stage takes or gives, without memory; sharding hands on what it computes in, autocast what it was given."""
        is_real, kind = tensor.is_floating_point(), tensor.dtype
        if is_real and "shard" in self.groups.names and device.is_bf16(self.train.precision):
            kind = torch.bfloat16
        return torch.empty(self._rows, *tensor.shape[1:], dtype=kind, device="meta", requires_grad=is_real)

    def _filled(self, batches: Sequence[Batch]) -> Batch:
        """One batch of as many rows as the micro-batches have, cut as the mesh says, on our device."""
        missing = self._rows * self._num - self._num_rows
        extra = [{name: row.expand(missing, *row.shape[1:]) for name, row in self._template.items()}] if missing else []
        filled = {name: torch.cat([batch[name] for batch in [*batches, *extra]]) for name in self._template}
        return moved(self.cut(filled), self.model)

    def _loss(self, outputs: Tensor, number: Tensor) -> Tensor:
        """The loss of one micro-batch; rows that fill it up are left out."""
        at = int(number)
        count = min(max(self._num_rows - at * self._rows, 0), self._rows)
        batch = {name: tensor[:count] for name, tensor in self._micro[at].items()}
        with self.autocast():
            sums = self.task.sums(outputs[:count], batch, self.gather)
        self._sums = added(self._sums, sums)
        return sums.loss

    def _told(self, sums: Sums | None) -> Sums:
        """The sums, or zeros of the same names on ranks without the last stage."""
        if not hasattr(self, "_names"):
            self._names = gathering.told(list(sums.metrics) if sums else None, self.group)
        zero = torch.zeros((), device=device.device())
        return sums or Sums(zero, zero, dict.fromkeys(self._names, zero))


def _under(forward: Any, autocast: Autocast, agreed: Tensor) -> Any:
    """A forward pass under autocast, its backward pass is not; what it gives must be what the next stage waits for."""

    def call(*inputs: Any, **named: Any) -> Any:
        with autocast():
            found = forward(*inputs, **named)
        if found.dtype != agreed.dtype or found.shape != agreed.shape:
            why = f"{found.dtype} {list(found.shape)} for {agreed.dtype} {list(agreed.shape)}"
            raise ConfigError("a stage gives another tensor than was agreed", where=stages.WHERE, why=why, hint="use `shard`")
        return found

    return call
