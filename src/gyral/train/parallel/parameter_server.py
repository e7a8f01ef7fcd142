"""Workers that meet on a parameter server: `--sync bsp`, `ssp:4` or `async`; nothing else connects them.

    place     the plain module; its tables are read through the server
    settle    pull: dense parameters whole; rows of tables are pulled when a forward pass asks for them
    reduce    the gradient, and sums: of all workers (`bsp`: pushed, then they meet), or the own ones
    step      push (`ssp`, `async`); the rate's schedule is a factor of the push
    commit    tick

**bsp** is one step of the sum of all gradients: the numbers of one process on the whole batch, clipping included, for any
number of workers and shards. **ssp** and **async**: a step is as many pushes as there are workers, each of the mean over the
worker's own part of the batch, clipped by its own norm. Dense pushes of N workers then have 1 / √N of the rate and longer
memories (`betas_of`): so a step moves Adam's weights as far as one push of all would, where noise is most of a gradient. With
1 / N SASRec lost .005 (2 workers) and .011 (4) of .100 NDCG@10. Rows of tables have the whole rate: an id is mostly met by one
worker, and Adagrad does not ask how large a gradient is.

**Exactly once.** Push number t of step s has `seq = (s + 1) T + t + 1` with T tables, whoever computes it and whenever, so a
worker that comes back from `at` (the steps whose pushes are on the server's disk) computes some steps again and changes nothing
twice. Clock 0 and its T pushes are the initial values, by the first worker.

Source: Li et al., OSDI 2014; Ho et al., NIPS 2013; Zheng et al., arXiv 1609.08326 (compensation, in the shard).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gyral.config.training import Optim, Train
from gyral.errors import ConfigError, RankError
from gyral.model.roles import Roles
from gyral.model.task import BaseTask, Sums, Task
from gyral.params.client import Client
from gyral.params.spec import TableSpec
from gyral.train.loader import Part
from gyral.train.optim import schedule
from gyral.train.parallel import touched
from gyral.train.parallel.kept_tables import Dense, Rows, betas_of, kept_tables
from gyral.train.parallel.mesh import refuse_batch_norm
from gyral.train.parallel.strategy import Alone, Totals, divided, flat_sums, from_flat, grads_of, totals_of

WAIT_S = 120.0
"""Without any worker's progress, before one that waits for the others gives up."""
LOOK_S = 0.02
Connect = Callable[[Sequence[TableSpec], int, int], Client]
"""(specs, seq, clock) → this worker's client."""


def tables_of(model: nn.Module, roles: Roles, train: Train, workers: int) -> list[Dense | Rows]:
    """The tables of a training; its verb and all workers come to the same."""
    waits, server = train.sync == "bsp", train.server
    betas = None if waits else betas_of(train.optim, workers, server.momentum_correction)
    found = kept_tables(model, roles, train.optim, train.seed, betas, 0.0 if waits else server.compensation)
    return [table for table in found if server.dense == "server" or table.is_rows]


class Progress:
    """How many steps of each worker are on the server's disk: a small file a worker, in the run's folder."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._paths = [folder / f"worker{number}.at" for number in range(workers)]

    def read(self, worker: int) -> int | None:
        """None: it has not begun."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._paths[worker].read_text())
        return None

    def write(self, worker: int, steps: int) -> None:
        """By the worker itself."""
        temporary = self._paths[worker].with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(str(steps))
        os.replace(temporary, self._paths[worker])  # a machine that stops takes the server along, so nothing is synced

    def wait(self, workers: Sequence[int], steps: int, what: str) -> None:
        """Until each of them has done so many.

        Raises
        ------
        RankError : none of them got on for `WAIT_S`.
        """
        last: list[int | None] = []
        end = time.monotonic() + WAIT_S
        while True:
            now = [self.read(worker) for worker in workers]
            late = [worker for worker, at in zip(workers, now, strict=True) if at is None or at < steps]
            if not late:
                return
            if now != last:
                last, end = now, time.monotonic() + WAIT_S
            if time.monotonic() > end:
                names = ", ".join(f"worker {worker}" for worker in late)
                raise RankError(f"waited {WAIT_S:g} s for {names} to {what}", hint="their logs hold why they stand still")
            time.sleep(LOOK_S)


class Pushing:
    """Stands for an optimizer: the server has the state, and steps when it is pushed to."""

    def __init__(self, strategy: ParameterServer, config: Optim, steps: int) -> None:
        self.inner: torch.optim.Optimizer = torch.optim.SGD([torch.zeros(())], lr=0.0)
        self._strategy, self._config, self._steps = strategy, config, steps
        strategy.steps, strategy.factor = steps, self.factor

    def factor(self, step: int) -> float:
        """Of the rate, at a step."""
        return schedule(self._config, step, self._steps)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self._config.rate * self.factor(step)

    def step(self, step: int) -> None:
        """Learn from the gradient."""
        self._strategy.learn(step)

    def zero_grad(self) -> None:
        """Forget gradients."""
        for param in self._strategy.model.parameters():
            touched.forget(param)


class ParameterServer(Alone):
    """`ssp` and `async`; what `Bsp` has in common with them.

    Attributes
    ----------
    is_together : whether nobody reads before all have finished a clock.

    Parameters
    ----------
    connect : opens the client when it is known where to begin.
    """

    is_together = False

    def __init__(self, train: Train, rank: int, num_ranks: int, folder: Path, connect: Connect) -> None:
        self.train, self.rank, self.num_ranks = train, rank, num_ranks
        self.is_first = self.evaluates = rank == 0
        self.progress, self._connect = Progress(folder, num_ranks), connect
        self.client: Client | None = None
        self.step, self.steps, self._learned = 0, 0, False
        self.factor: Callable[[int], float] = lambda _: 1.0
        self._loaded: dict[str, Any] = {}
        self._written = 0.0
        if train.ema or train.optim.spike:
            name = "ema" if train.ema else "optim.spike"
            raise ConfigError(
                f"`train.{name}` with `--sync {train.sync}`", why="the server has the weights", where=f"train.{name}"
            )

    def place(self, task: Task, model: nn.Module) -> nn.Module:
        """Have lookups of tables pull their rows first."""
        if getattr(type(task), "after_step", None) is not BaseTask.after_step:
            raise ConfigError(f"`{task.name}` changes weights after a step", where="train.sync", hint="use `--sync allreduce`")
        refuse_batch_norm(model)
        model = super().place(task, model)
        self.tables = tables_of(model, task.roles, self.train, self.num_ranks)
        by_param = {id(table.param): (number, table) for number, table in enumerate(self.tables) if isinstance(table, Rows)}
        for _, module in task.roles.named(model, "table"):
            weight = module.get_parameter("weight")
            found = touched.of(weight)
            if id(weight) in by_param and found is not None:
                touched.read_by(module, self._reader(*by_param[id(weight)], found))
        return model

    def optimizer(self, model: nn.Module, config: Optim, steps: int, roles: Roles) -> Any:
        """The server's."""
        return Pushing(self, config, steps)

    def follow(self, optimizer: Any, position: Any, parts: Mapping[str, Any] = {}) -> None:
        """Begin where this worker stands on the server, which has the first one's values before anybody reads them."""
        at = self.progress.read(self.rank)
        is_new = at is None
        if at is None:
            at = self._begun_at(self._loaded["at"]) if self._loaded else position.step
        position.step = self.step = at
        self.client = self._connect([table.spec for table in self.tables], 0, 0 if is_new and at == 0 else at + 1)
        if is_new and self.is_first:
            self._fill()
        if not self.is_first and not self.is_together:
            self.progress.wait([0], 0, "give the server the first values")
        self.client.seq = self._seq(at)
        if self.client.clock == 0:
            self.client.tick()
        self._pull()
        self._loaded = {}
        if is_new:
            self.progress.write(self.rank, at)

    def _begun_at(self, steps: Sequence[int]) -> int:
        """Steps that a checkpoint has of this worker; where all have done as many, there may be others now."""
        if len(set(steps)) > 1 and len(steps) != self.num_ranks:
            what = f"the checkpoint is of {len(steps)} workers that did not wait for each other, and there are {self.num_ranks}"
            raise ConfigError(what, where="train.parallel", hint=f"`--parallel data={len(steps)}`")
        return int(steps[self.rank] if len(steps) == self.num_ranks else steps[0])

    def _fill(self) -> None:
        for number, table in enumerate(self.tables):
            if self._loaded:
                self._client.load(number, self._loaded["tables"][table.spec.name].numpy().tobytes())
            else:
                self._client.push(number, table.keys, table.values())
        if not self._loaded:
            self._client.tick()
        if not self.is_together:
            self._client.flush()
        self._loaded = {}

    def _seq(self, step: int) -> int:
        return (step + 1) * len(self.tables)

    def _reader(self, number: int, table: Rows, found: touched.Touched) -> Callable[[Tensor], Tensor]:
        def read(ids: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not table.is_matrix:
                keys_K = ids.unique().numpy()
                table.put(self._client.pull(number, keys_K).result()[0], keys_K)
            return found.read(table.param, ids)

        return read

    @property
    def _client(self) -> Client:
        if self.client is None:
            raise RankError("this worker has not joined the server yet")
        return self.client

    def _pull(self, whole: bool = True) -> None:
        asked = [
            (table, self._client.pull(number, table.keys))
            for number, table in enumerate(self.tables)
            if whole or isinstance(table, Dense) or table.is_matrix
        ]
        for table, pulling in asked:
            table.put(pulling.result()[0])

    def settle(self, step: int) -> Part:
        """Pull, and the part of this worker."""
        self.step, self._learned = step, False
        self._pull(whole=False)
        return Part(self.rank, self.num_ranks)

    def reduce(self, sums: Sums) -> Totals | None:
        """The mean over the own part."""
        return divided(self.model, sums)

    def learn(self, step: int) -> None:
        """Push the gradient."""
        share = self.train.server.rate or self.num_ranks**-0.5
        self._push([table.gradient() for table in self.tables], step, share)
        self._learned = True

    def _push(self, parts: Sequence[tuple[np.ndarray, np.ndarray]], step: int, share: float) -> None:
        for number, (keys_K, grads_KD) in enumerate(parts):
            table = self.tables[number]
            base_KD = table.values() if table.spec.optimizer.compensation else None  # as it was pulled
            self._client.push(number, keys_K, grads_KD, 0, base_KD, self.factor(step) * (1.0 if table.is_rows else share))

    def commit(self, step: int) -> None:
        """Tick; a step that was not learned from is counted as well."""
        self._client.seq = self._seq(step + 1)
        self._client.tick()
        self.step = step + 1
        if time.monotonic() - self._written > 0.2:
            self._written = time.monotonic()
            self.progress.write(self.rank, self._durable_step())

    def _durable_step(self) -> int:
        return min(self.step, self._client.durable_seq // len(self.tables) - 1)

    def state(self) -> dict[str, Any]:
        """The server's tables as they are, and how far each worker was before they were taken."""
        if self.client is None or not self.is_first:
            return {}
        if self.step >= self.steps:
            self._finish()
        at = self._settled([self.progress.read(worker) or 0 for worker in range(self.num_ranks)])
        blobs = {table.spec.name: self.client.export(number) for number, table in enumerate(self.tables)}
        return {
            "tables": {name: torch.frombuffer(bytearray(blob), dtype=torch.uint8) for name, blob in blobs.items()},
            "at": at,
        }

    def _settled(self, at: list[int]) -> list[int]:
        """Of this worker all pushes are there."""
        self._client.flush()
        return [self.step, *at[1:]]

    def load(self, state: dict[str, Any]) -> None:
        """To be put on the server, once there is a link to it."""
        self._loaded = state

    def weights(self) -> dict[str, Tensor]:
        """As they were pulled last."""
        return dict(self.model.state_dict())

    def to_evaluate(self) -> AbstractContextManager[nn.Module | None]:
        """With the values of the server, which are the last ones when all workers are done."""
        return self._whole() if self.is_first else nullcontext()

    @contextlib.contextmanager
    def _whole(self) -> Iterator[nn.Module]:
        if self.step >= self.steps:
            self._finish()
        self._pull()
        yield self.model

    def _finish(self) -> None:
        """All of this worker is on the server's disk; wait for the others."""
        self._client.flush()
        self.progress.write(self.rank, self.step)
        self.progress.wait(range(self.num_ranks), self.steps, f"do {self.steps:,} steps")

    def told(self) -> dict[str, Any]:
        """Staleness, rows, links."""
        stats = self._client.stats()
        stats["staleness"] = {
            kind: {str(value): num for value, num in sorted(told.items())} for kind, told in stats["staleness"].items()
        }
        return {"sync": self.train.sync, **{name: each for name, each in stats.items() if name != "shards"}}

    def close(self) -> None:
        """Leave the server."""
        self._finish()
        self._client.close()


class Bsp(ParameterServer):
    """All workers' gradients are one step."""

    is_together = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._norm, self._scale, self._decided = 0.0, 0.0, b""

    def place(self, task: Task, model: nn.Module) -> nn.Module:
        """Losses that compare rows of all workers are not computed here."""
        if task.cross_sample and self.num_ranks > 1:
            what = f"`{task.name}` compares rows of all workers, who meet only on the server"
            raise ConfigError(what, where="train.sync", hint="`--sync allreduce`, or one worker")
        return super().place(task, model)

    def reduce(self, sums: Sums) -> Totals | None:
        """Push sums of gradients; what the meeting tells is the whole batch's."""
        bad = not all(bool(torch.isfinite(grad).all()) for grad in grads_of(self.model))
        if not bad:
            self._push([table.gradient() for table in self.tables], self.step, 1.0)
        flat = flat_sums(sums)
        if bad:
            flat[0] = float("nan")
        met = self._client.meet(flat.numpy().tobytes())
        if met.decided:  # the others went on, and a shard came back that has not heard what they said
            *whole, norm = np.frombuffer(met.decided).tolist()
        else:
            whole, norm = sum(np.frombuffer(body) for body in met.said), met.norm
        total = torch.tensor(np.array(whole))
        self._decided = np.array([*total.tolist(), norm]).tobytes()
        totals = totals_of(from_flat(total, sums))
        self._scale = 1.0 / (totals.weight or 1.0)
        self._norm = norm * self._scale
        return totals

    def clip(self, limit: float) -> float:
        """As part of the scale that the tick carries."""
        if limit and not self._norm <= limit:
            self._scale *= limit / (self._norm + 1e-6)
        return self._norm

    def learn(self, step: int) -> None:
        """The tick says so."""
        self._learned = True

    def commit(self, step: int) -> None:
        """Tick, with what all gradients are multiplied by; 0 where the step is not learned from."""
        self._client.seq = self._seq(step + 1)
        self._client.tick(self._scale if self._learned else 0.0, self._decided)
        self.step = step + 1

    def _settled(self, at: list[int]) -> list[int]:
        """Clocks are over for all at once: whoever pulls sees them so."""
        self._pull()
        return [self.step] * self.num_ranks
