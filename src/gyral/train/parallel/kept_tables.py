"""Which parameters are in which table of a parameter server, and the way between the two.

| parameters | on the server |
|---|---|
| tables that `optim.tables = "rowwise_adagrad"` updates by row | a table each, key = id; only rows that are looked up travel |
| all others | one flat vector a group of the optimizer, `CHUNK` numbers a row, pulled and pushed whole |

Every worker has the plain module, whose values are a copy of what it pulled last. A table that is also read as a matrix has a
gradient of all rows and is pulled whole, as is found by its first backward pass. Initial values come from the first worker's
module (`init = "pushed"`), so a run begins with the weights it would begin with anywhere else.

Shapes: K keys, D width of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gyral.config.training import Optim
from gyral.errors import ConfigError
from gyral.model.roles import Roles
from gyral.params.spec import Optimizer, TableSpec
from gyral.train.optim import groups_of
from gyral.train.parallel import touched

CHUNK = 512
"""Numbers of dense parameters in a row: 2 kB, and its optimizer's state beside it."""


class Dense:
    """A group of parameters as one flat vector.

    Attributes
    ----------
    keys : int64 [K], all of its chunks.
    """

    is_rows = False

    def __init__(self, name: str, group: dict[str, Any], seed: int, betas: tuple[float, float], compensation: float) -> None:
        self.params: list[nn.Parameter] = list(group["params"])
        self.size = sum(param.numel() for param in self.params)
        how = Optimizer(
            name="adam", rate=group["lr"], eps=group["eps"], beta1=betas[0], beta2=betas[1],
            decay=group["weight_decay"], compensation=compensation,
        )  # fmt: skip
        self.spec = TableSpec(name, min(CHUNK, self.size), how, init="pushed", seed=seed)
        self.keys = np.arange(-(-self.size // self.spec.dim), dtype=np.int64)

    @torch.no_grad()
    def put(self, rows_KD: np.ndarray) -> None:
        """Values of the server into the parameters."""
        flat, start = torch.from_numpy(rows_KD.reshape(-1)), 0
        for param in self.params:
            param.copy_(flat[start : start + param.numel()].view_as(param))
            start += param.numel()

    def values(self) -> np.ndarray:
        """Parameters as rows."""
        return self._rows([param.detach() for param in self.params])

    def gradient(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys, and their gradients float32 [K, D]; of a parameter that has none, zeros."""
        grads = [param.grad if param.grad is not None else torch.zeros_like(param) for param in self.params]
        return self.keys, self._rows(grads)

    def _rows(self, tensors: list[Tensor]) -> np.ndarray:
        rows_KD = np.zeros((len(self.keys), self.spec.dim), np.float32)
        torch.cat([each.reshape(-1) for each in tensors], out=torch.from_numpy(rows_KD.reshape(-1)[: self.size]))
        return rows_KD


class Rows:
    """One table by id."""

    is_rows = True

    def __init__(self, name: str, group: dict[str, Any], param: nn.Parameter, seed: int) -> None:
        self.param = param
        how = Optimizer(name="rowwise_adagrad", rate=group["lr"], eps=group.get("eps", 1e-8), decay=group["weight_decay"])
        self.spec = TableSpec(name, param.shape[1], how, init="pushed", seed=seed)
        self.keys = np.arange(param.shape[0], dtype=np.int64)
        self.is_matrix = touched.of(param) is None
        """Whether all of its rows are read."""

    @torch.no_grad()
    def put(self, rows_KD: np.ndarray, keys_K: np.ndarray | None = None) -> None:
        """Values of the server into the parameter, all or those of some ids."""
        rows = torch.from_numpy(rows_KD)
        if keys_K is None:
            self.param.copy_(rows)
        else:
            self.param.index_copy_(0, torch.from_numpy(keys_K), rows)

    def values(self) -> np.ndarray:
        """The parameter."""
        return self.param.detach().numpy().copy()

    def gradient(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids that have a gradient which is not zero, ascending, and those."""
        grad, found = touched.gradient_of(self.param), touched.of(self.param)
        if grad is None:
            return np.zeros(0, np.int64), np.zeros((0, self.spec.dim), np.float32)
        self.is_matrix = self.is_matrix or self.param.grad is not None
        joined = None if self.param.grad is not None or found is None else found.joined()
        keys_K = self.keys if joined is None else joined[0].numpy()
        met = grad.any(dim=1).numpy()
        return (keys_K, grad.numpy()) if met.all() else (keys_K[met], grad.numpy()[met])


def kept_tables(
    model: nn.Module,
    roles: Roles,
    config: Optim,
    seed: int,
    betas: tuple[float, float] | None = None,
    compensation: float = 0.0,
) -> list[Dense | Rows]:
    """All tables of a model, in the same order wherever it is built.

    Raises
    ------
    ConfigError : of an optimizer that needs whole matrices.
    """
    if config.name != "adamw":
        hint = "`train.optim.name = 'adamw'`, or `--sync allreduce`"
        raise ConfigError(f"a parameter server has no `{config.name}`", why="it sees rows", where="train.optim.name", hint=hint)
    found: list[Dense | Rows] = []
    for group in groups_of(model, config, roles):
        if group["by"] == "rows":
            found += [Rows(f"rows{len(found) + at}", group, param, seed) for at, param in enumerate(group["params"])]
        else:
            found.append(Dense(f"dense{len(found)}", group, seed, betas or group["betas"], compensation))
    return found


def betas_of(config: Optim, workers: int, is_corrected: bool) -> tuple[float, float]:
    """Adam's, where a step is a push of each worker: as long a memory in examples as with one push a step.

    Parameters
    ----------
    is_corrected : less the momentum that the workers add by themselves: steps of n of them, each at weights that others
        have changed since, act like momentum of 1 − 1/n. With both, `beta1` is what it is with one worker.

    Source: Malladi et al., NeurIPS 2022, definition 5 (Adam and the size of a batch); Mitliagkas et al., Asynchrony begets
    momentum, Allerton 2016, theorem 1.
    """
    longer = 1 - (1 - config.beta1) / workers
    return max(0.0, 1 - workers * (1 - longer)) if is_corrected else longer, 1 - (1 - config.beta2) / workers
