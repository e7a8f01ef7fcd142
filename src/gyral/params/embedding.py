"""A table as a layer of a torch model: `forward` pulls rows, `backward` pushes their gradients as one fused update.

No gradient tensor of the table, no optimizer beside it: the step is made where the rows are. All uses of the layer in one
backward pass are **summed**, in the order in which `forward` was called, and are one step, as with `nn.Embedding`; the step is
made when the pass ends. Two passes (gradient accumulation) are two steps. Under `torch.no_grad()` rows are pulled and nothing
is pushed. A batch is looked up once: backward goes to the rows that forward found, unless rows were removed in between.

The table may be a `Table` of this process or a handle of a client that has its `spec`, `pull` and `push`.

Where not every key is let in (`admit_…`, `max_rows`), a key without a row reads the **default row**: key 0 of a second table,
`<name>.default`, which learns from the gradients of all that read it. The gradients are also pushed, occurrence by occurrence,
to the table, which counts them; those of a key that is let in by this push are its row's first step.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from gyral.errors import InputError, UsageError
from gyral.params.batch import Batch, batch_of
from gyral.params.spec import TableSpec
from gyral.params.table import Found, Table


class Keyed(Protocol):
    """What a layer needs of a table, wherever that is."""

    @property
    def spec(self) -> TableSpec: ...

    def pull(self, keys_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def push(self, keys_K: np.ndarray, grads_KD: np.ndarray, at: int = 0, base_KD: np.ndarray | None = None) -> None: ...


def default_spec(spec: TableSpec) -> TableSpec | None:
    """The table of the default row; `None` where every key has its own."""
    if spec.admits_all:
        return None
    everything = {"admit_count": 1, "admit_probability": 1.0, "admit_window_s": 0, "max_rows": 0, "expire_s": 0}
    return msgspec.structs.replace(spec, name=f"{spec.name[:56]}.default", dtype="f32", **everything)


class Embedding(nn.Module):
    """Rows of a table.

    Parameters
    ----------
    table : of this process, or a client's handle.
    default : the table of `default_spec(table.spec)`; made here where `table` is of this process.
    mode : of bags, `sum` or `mean`; `None`: no bags.
    padding : key that stands for nothing: it reads zeros, learns nothing and is not counted in a mean.
    dtype : of the output.

    Raises
    ------
    UsageError : a handle whose table does not let every key in comes without `default`.
    """

    def __init__(
        self,
        table: Keyed,
        default: Keyed | None = None,
        *,
        mode: str | None = None,
        padding: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if mode not in (None, "sum", "mean"):
            raise UsageError(f"an embedding has no mode `{mode}`", hint="`sum` or `mean`, or none")
        wanted = default_spec(table.spec)
        if wanted is not None and default is None:
            if not isinstance(table, Table):
                raise UsageError(
                    f"table `{table.spec.name}` does not let every key in, so its layer needs a default row",
                    hint=f"open `{wanted.name}` (`default_spec(spec)`) beside it and pass its handle as `default`",
                )
            default = Table(wanted)
        self.table, self.default, self.mode, self.padding, self.dtype = table, default, mode, padding, dtype
        self._pending: dict[int, list[_Use]] = {}
        self._uses = 0

    def forward(self, keys: Tensor, offsets: Tensor | None = None, at: int = 0) -> Tensor:
        """Rows of keys.

        Parameters
        ----------
        keys : int64. Without a mode of any shape […]; with one, bags as rows [B, L], or one after the other [N].
        offsets : int64 [B], where each bag of [N] begins.
        at : event time of what is learned, seconds since the epoch; 0: unknown.

        Returns
        -------
        […, D], or [B, D] for bags; an empty bag is zeros.
        """
        if keys.dtype != torch.int64:
            where = f"layer of table `{self.table.spec.name}`"
            raise InputError(f"keys are {keys.dtype}, not int64", where=where, hint="keys.long()")
        rows = self._rows(keys.reshape(-1), at)
        if self.mode is None:
            return rows.view(*keys.shape, self.table.spec.dim).to(self.dtype)
        told = (keys != self.padding) if self.padding is not None else torch.ones_like(keys, dtype=torch.bool)
        if offsets is None:
            bags, counts = rows.view(*keys.shape, -1).sum(1), told.sum(1)
        else:
            ends = torch.cat([offsets[1:], offsets.new_tensor([len(keys)])])
            of = torch.repeat_interleave(torch.arange(len(offsets)), ends - offsets)
            bags = rows.new_zeros(len(offsets), rows.shape[1]).index_add(0, of, rows)
            counts = torch.zeros(len(offsets), dtype=torch.int64).index_add(0, of, told.long())
        if self.mode == "mean":
            bags = bags / counts.clamp(min=1).unsqueeze(1)
        return bags.to(self.dtype)

    def _rows(self, keys_K: Tensor, at: int) -> Tensor:
        learn = torch.is_grad_enabled()
        use = _Use(self, keys_K.numpy(), at, self._uses)
        self._uses += learn
        if not learn:
            return torch.from_numpy(use.rows())
        found: Tensor = _Pull.apply(torch.zeros((), requires_grad=True), use)  # type: ignore[no-untyped-call]
        return found

    def _push(self, use: _Use) -> None:
        """Keep a use until its backward pass ends, then push all of that pass."""
        task = torch._C._current_graph_task_id()
        if task not in self._pending:
            self._pending = {task: []}  # what another pass left was of one that failed
            torch.autograd.Variable._execution_engine.queue_callback(self._step)
        self._pending[task].append(use)

    def _step(self) -> None:
        (uses,) = self._pending.values()
        self._pending = {}
        uses.sort(key=lambda use: use.number)
        first = uses[0] if len(uses) == 1 else _merged(uses)
        first.push()

    def extra_repr(self) -> str:
        """What torch prints."""
        return f"{self.table.spec.name}, {self.table.spec.dim}, {self.table.spec.optimizer.name}"


class _Use:
    """Keys that were asked for in one call, and what came back for them."""

    def __init__(self, layer: Embedding, keys_K: np.ndarray, at: int, number: int) -> None:
        self.layer, self.at, self.number = layer, at, number
        self.kept = None if layer.padding is None or not (keys_K == layer.padding).any() else keys_K != layer.padding
        self.keys = keys_K if self.kept is None else keys_K[self.kept]
        self.found: Found | None = None
        self.batch: Batch | None = None
        self.held: np.ndarray = np.zeros(0, bool)
        self.base: np.ndarray = np.zeros(0, np.float32)
        self.grads: np.ndarray = self.base

    def rows(self) -> np.ndarray:
        """float32 [K, D]; zeros where the key is padding."""
        layer, table = self.layer, self.layer.table
        if isinstance(table, Table):
            self.found = table.find(self.keys)
            rows = table.read(self.found)
            self.held = self.found.held if layer.default is not None else self.held
        elif layer.default is None:  # a key once on its way there and back
            self.batch = batch_of(self.keys, np.uint64(table.spec.salt))
            rows = table.pull(self.batch.keys)[0][self.batch.inverse]
        else:
            rows, self.held = table.pull(self.keys)
        if layer.default is not None and not self.held.all():
            rows = rows if rows.flags.writeable else rows.copy()
            rows[~self.held] = layer.default.pull(np.zeros(1, np.int64))[0]
        if table.spec.optimizer.compensation:
            self.base = rows
        if self.kept is None:
            return rows
        out = np.zeros((len(self.kept), rows.shape[1]), np.float32)
        out[self.kept] = rows
        return out

    def push(self) -> None:
        """Make the step."""
        layer, table, base = self.layer, self.layer.table, self.base if len(self.base) else None
        if isinstance(table, Table):
            table.step(self.found or table.find(self.keys), self.grads, self.at, base)
        elif layer.default is None:
            batch = self.batch or batch_of(self.keys, np.uint64(table.spec.salt))
            told = [] if base is None else [base[batch.first]]
            table.push(batch.keys, batch.totals(self.grads), self.at, *told)
        else:
            table.push(self.keys, self.grads, self.at, *([] if base is None else [base]))
        if layer.default is not None and not self.held.all():
            of_default = self.grads[~self.held]
            layer.default.push(np.zeros(len(of_default), np.int64), of_default, self.at)


def _merged(uses: list[_Use]) -> _Use:
    """Several uses as one, in the order of their calls."""
    whole = _Use(uses[0].layer, np.concatenate([use.keys for use in uses]), max(use.at for use in uses), uses[0].number)
    whole.held, whole.base, whole.grads = (
        np.concatenate([getattr(use, name) for use in uses]) for name in ("held", "base", "grads")
    )
    return whole


class _Pull(torch.autograd.Function):
    """Rows of a use; its gradient goes to the use."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, use: _Use) -> Tensor:
        ctx.use = use
        return torch.from_numpy(use.rows())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        use: _Use = ctx.use
        grads_KD = grads[0].float().contiguous().numpy()
        use.grads = grads_KD if use.kept is None else grads_KD[use.kept]
        use.layer._push(use)
        return None, None
