"""Tables on the parameter server, dense parameters in every worker: `--sync bsp` with `train.server.dense = "allreduce"`.

What is looked up travels by row, which an all-reduce cannot do; what is used whole in every step is summed among the workers,
which a server can only do in one place. Both are the same step of the same batch: workers meet on the server between push and
tick, so the norm of the whole gradient is known to all before either part is stepped. Workers are one process group, so losses
that compare rows of all workers are computed as with `--sync allreduce`.

Source: Lian et al., Persia, KDD 2022 (tables behind servers, the dense part by all-reduce); there tables are not waited for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gyral.config.training import Optim
from gyral.errors import ConfigError
from gyral.model.roles import Roles
from gyral.model.task import Batch, Sums, Task
from gyral.train.optim import Optimizer
from gyral.train.parallel.data import add_over, gathered
from gyral.train.parallel.parameter_server import Bsp, ParameterServer, Pushing
from gyral.train.parallel.strategy import Totals, accumulate


class Both(Pushing):
    """The server steps rows, this process the rest."""

    def __init__(self, strategy: Beside, config: Optim, steps: int, model: nn.Module, roles: Roles) -> None:
        super().__init__(strategy, config, steps)
        self._dense = Optimizer(model, config, steps, roles, has_rows=False)
        self.inner = self._dense.inner

    def step(self, step: int) -> None:
        """Learn from the gradient."""
        super().step(step)
        self._dense.step(step)

    def state(self) -> dict[str, Any]:
        """Of the dense part; the rows' is on the server."""
        return self._dense.state()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._dense.load(state)


class Beside(Bsp):
    """`bsp` for tables, all-reduce for all else."""

    def place(self, task: Task, model: nn.Module) -> nn.Module:
        """All begin with the dense values of the first."""
        model = ParameterServer.place(self, task, model)
        if not self.tables:
            why = "no table of this model is updated by row"
            raise ConfigError("there is nothing for the server", why=why, where="train.server.dense",
                              hint="`train.optim.tables = 'rowwise_adagrad'`, or `--sync allreduce`")  # fmt: skip
        rows = {id(table.param) for table in self.tables if table.is_rows}  # type: ignore[union-attr]
        self._dense = [param for param in model.parameters() if param.requires_grad and id(param) not in rows]
        with torch.no_grad():
            for tensor in [*self._dense, *model.buffers()]:
                dist.broadcast(tensor, 0)
        return model

    def optimizer(self, model: nn.Module, config: Optim, steps: int, roles: Roles) -> Any:
        """The server's, and one here."""
        return Both(self, config, steps, model, roles)

    def forward_backward(self, batches: Sequence[Batch]) -> Sums:
        """What compares rows sees those of all workers."""
        return accumulate(self.task, self.model, batches, lambda tensor: gathered(tensor, None), self.autocast)

    def reduce(self, sums: Sums) -> Totals | None:
        """Rows are pushed and met for, the rest is summed."""
        totals = super().reduce(sums)
        grads: list[Tensor] = []
        for param in self._dense:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            grads.append(param.grad)
        add_over(grads, None)
        if totals is not None and totals.weight > 0:
            torch._foreach_div_(grads, totals.weight)
        self._grads = grads
        return totals

    def clip(self, limit: float) -> float:
        """By the norm of both parts."""
        norm = math.hypot(self._norm, float(nn.utils.get_total_norm(self._grads, foreach=True)))
        if limit and not norm <= limit:
            self._scale *= limit / (norm + 1e-6)
            torch._foreach_mul_(self._grads, limit / (norm + 1e-6))
        return norm

    def follow(self, optimizer: Any, position: Any, parts: Mapping[str, Any] = {}) -> None:
        """As the tables' worker; the first one's values are there before anybody reads them."""
        super().follow(optimizer, position, parts)
        dist.barrier()

    def _finish(self) -> None:
        """All of this worker is on the server's disk; the others are in the same collectives, so nobody waits for them here."""
        self._client.flush()
        self.progress.write(self.rank, self.step)
