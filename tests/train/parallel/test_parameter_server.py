"""Workers that meet on a parameter server, as threads with a client each: what they learn, and that nothing counts twice."""

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gyral.config.training import Optim, Server, Train
from gyral.errors import ConfigError
from gyral.model.nets.tables import Table
from gyral.model.roles import Roles
from gyral.model.task import BaseTask, Sums, seeded
from gyral.params import client as clients
from gyral.params.shard import Settings
from gyral.train import loop
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.kept_tables import betas_of
from gyral.train.parallel.parameter_server import Bsp, ParameterServer, tables_of
from gyral.train.parallel.strategy import Alone

from ...params.places import SECRET, Served

STEPS, BATCH, IDS = 12, 8, 40


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.items, self.people = Table(IDS, 8), Table(IDS, 8)
        self.out = nn.Linear(16, 1)

    def forward(self, items_BL, people_BL):
        return self.out(torch.cat([self.items(items_BL), self.people(people_BL)], dim=1))[:, 0]


class Clicks(BaseTask):
    """Two tables of which a step touches some rows, weights that differ by row, and a layer."""

    name, num_rows = "clicks", 200
    roles = Roles(rules=(("items", "table"), ("people", "table"), ("out", "column")))

    def __init__(self):
        rng = np.random.default_rng(0)
        self.ids = torch.from_numpy(rng.zipf(1.5, (200, 6)) % IDS)
        self.labels = torch.from_numpy((rng.random(200) < 0.4).astype(np.float32))

    def build(self, seed):
        return seeded(seed, Net)

    def batch(self, examples, step):
        return {"ids": self.ids[examples], "labels": self.labels[examples]}

    def loss(self, model, batch, gather):
        weight_B = 1.0 + batch["labels"]
        nats_B = F.binary_cross_entropy_with_logits(
            model(batch["ids"][:, :4], batch["ids"][:, 4:]), batch["labels"], reduction="none"
        )
        return Sums((nats_B * weight_B).sum(), weight_B.sum(), {"hits": batch["labels"].sum()})


def settings_of(sync, **options):
    optim = Optim(rate=1e-2, tables="rowwise_adagrad", table_rate=0.05, weight_decay=0.1, clip=0.5, warmup=3)
    return Train(sync=sync, batch=BATCH, optim=optim, **options)


def one_process(task, train, steps=STEPS, microbatch=0, batch=BATCH):
    strategy = Alone()
    strategy.follows_rows = True
    model = strategy.place(task, task.build(train.seed))
    optimizer, found = Optimizer(model, train.optim, steps, task.roles), []
    order = Order(task.num_rows, batch, train.seed)
    loop.train(
        task, model, strategy, optimizer, loop.Settings(steps, batch, microbatch, train.optim.clip), order, loop.Position(),
        [found.append],
    )  # fmt: skip
    return found, {name: tensor.clone() for name, tensor in strategy.weights().items()}


class Workers:
    """Threads that train one model; `at` and `loaded` begin them where a run before ended."""

    def __init__(self, task, train, folder, num, address, steps=STEPS, stop=None, batch=BATCH):
        self.task, self.train, self.folder, self.num, self.address = task, train, folder, num, address
        self.steps, self.stop, self.batch = steps, stop or steps, batch
        self.found = [[] for _ in range(num)]
        self.states, self.weights, self.errors, self.told = {}, {}, [], {}

    def run(self, loaded=None):
        specs = [table.spec for table in tables_of(self.task.build(0), self.task.roles, self.train, self.num)]
        settings = Settings(self.train.sync, self.num, 1e6, 1e6, 0.2)
        served = Served(2, specs, settings, self.folder) if self.address == "tcp://2" else None
        address, secret = (served.address, SECRET) if served else (self.address, b"")
        looks = clients.open(address, specs, folder=self.folder / "server", settings=settings, worker=-1, secret=secret)
        self.models = [self.task.build(self.train.seed) for _ in range(self.num)]  # a seed is of the process
        threads = [threading.Thread(target=self.safely, args=(rank, looks, loaded)) for rank in range(self.num)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads) or self.errors, "a worker hangs"
        finally:
            looks.close()
            if served:
                served.close()
        if self.errors:
            raise self.errors[0]
        return self

    def safely(self, *given):
        try:
            self.work(*given)
        except BaseException as error:
            self.errors.append(error)

    def work(self, rank, looks, loaded):
        kind = Bsp if self.train.sync == "bsp" else ParameterServer
        connect = lambda specs, seq, clock: looks.another(rank, seq=seq, clock=clock, timeout_s=30.0)  # noqa: E731
        strategy = kind(self.train, rank, self.num, self.folder, connect)
        strategy.follows_rows = True
        model = strategy.place(self.task, self.models[rank])
        optimizer = strategy.optimizer(model, self.train.optim, self.steps, self.task.roles)
        position = loop.Position()
        if loaded is not None:
            position.step = self.stop_at(loaded)
            strategy.load(loaded)
        strategy.follow(optimizer, position)
        settings = loop.Settings(self.stop, self.batch, self.train.microbatch, self.train.optim.clip)
        order = Order(self.task.num_rows, self.batch, self.train.seed)
        every = [(3, lambda step: self.states.__setitem__(step, strategy.state()))] if rank == 0 else []
        loop.train(self.task, model, strategy, optimizer, settings, order, position, [self.found[rank].append], every)
        strategy.steps = self.stop
        with strategy.to_evaluate() as whole:
            assert (whole is not None) == (rank == 0)
        if rank == 0:
            self.weights = {name: tensor.clone() for name, tensor in strategy.weights().items()}
            self.told = strategy.told()
        strategy.close()

    @staticmethod
    def stop_at(loaded):
        return int(loaded["at"][0])


def farthest(left, right):
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize(
    "num, address", [(1, "local://1"), (2, "local://1"), (2, "local://3"), (3, "proc://2"), (2, "tcp://2")]
)
def test_bsp_learns_what_one_process_learns(tmp_path, num, address):
    task, train = Clicks(), settings_of("bsp")
    wanted, weights = one_process(task, train)
    workers = Workers(task, train, tmp_path, num, address).run()
    for found in workers.found:
        assert len(found) == STEPS
        for one, other in zip(wanted, found, strict=True):
            assert abs(one.loss - other.loss) <= 2e-6 and one.weight == other.weight
            assert one.norm == pytest.approx(other.norm, abs=2e-6) and one.metrics == pytest.approx(other.metrics)
    assert any(step.norm > 0.5 for step in wanted) and any(step.norm < 0.5 for step in wanted)
    assert farthest(weights, workers.weights) <= 2e-6
    assert workers.found[0][-1].loss < workers.found[0][0].loss


def test_bsp_has_the_same_bits_on_any_shards_and_with_a_resume(tmp_path):
    task, train = Clicks(), settings_of("bsp", microbatch=2)
    ends = []
    for number, address in enumerate(["local://1", "local://7", "proc://2"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        ends.append(Workers(task, train, folder, 2, address).run())
    assert all(farthest(ends[0].weights, end.weights) == 0 for end in ends)
    (tmp_path / "again").mkdir()
    for folder, address in (("again", "local://2"),):
        again = Workers(task, train, tmp_path / folder, 2, address).run(ends[0].states[6])
        assert len(again.found[1]) == STEPS - 6 and [step.loss for step in again.found[1]] == [
            step.loss for step in ends[0].found[1][6:]
        ]
        assert farthest(ends[0].weights, again.weights) == 0


@pytest.mark.parametrize("sync", ["async", "ssp:1"])
def test_workers_who_do_not_wait_learn_as_well(tmp_path, sync):
    task, train = Clicks(), settings_of(sync)
    wanted, _ = one_process(task, train, 60)
    workers = Workers(task, train, tmp_path, 3, "local://2", 60).run()
    last = np.mean([step.loss for found in workers.found for step in found[-10:]])
    assert abs(last - np.mean([step.loss for step in wanted[-10:]])) < 0.05
    pushes = workers.told["staleness"]["pushes"]
    assert sum(pushes.values()) > 0 and workers.told["sync"] == sync
    if sync == "ssp:1":
        assert max(map(int, workers.told["staleness"]["clocks"])) <= 1


def test_what_a_server_cannot_do_is_refused(tmp_path):
    for options, match in [({"ema": 0.9}, "ema"), ({"optim": Optim(spike=5.0)}, "spike")]:
        with pytest.raises(ConfigError, match=match):
            ParameterServer(Train(sync="async", **options), 0, 1, tmp_path, None)
    with pytest.raises(ConfigError, match="muon"):
        tables_of(Net(), Clicks.roles, Train(sync="bsp", optim=Optim(name="muon")), 1)


def test_the_memory_of_adam_is_as_long_in_examples_for_any_number_of_workers():
    optim = Optim(beta1=0.9, beta2=0.96)
    assert betas_of(optim, 1, False) == pytest.approx((0.9, 0.96))
    assert betas_of(optim, 4, False) == pytest.approx((0.975, 0.99))
    assert betas_of(optim, 4, True) == pytest.approx((0.9, 0.99))  # the rest is what four who do not wait add


class Spoiled(Clicks):
    """One example has no loss that can be learned from."""

    def batch(self, examples, step):
        batch = super().batch(examples, step)
        batch["labels"] = torch.where(torch.from_numpy(examples == 13), torch.nan, batch["labels"])
        return batch


def test_a_step_that_one_worker_cannot_learn_from_is_left_out_by_all(tmp_path):
    task, train, steps = Spoiled(), settings_of("bsp"), 25  # a pass
    wanted, weights = one_process(task, train, steps)
    workers = Workers(task, train, tmp_path, 2, "local://2", steps).run()
    assert [step.skipped for step in wanted] == [step.skipped for step in workers.found[1]] and sum(
        step.skipped for step in wanted
    ) == 1
    assert farthest(weights, workers.weights) <= 2e-6


def test_delay_may_be_compensated(tmp_path):
    train = settings_of("async", server=Server(compensation=1.0))
    workers = Workers(Clicks(), train, tmp_path, 2, "local://1", 30).run()
    assert workers.found[0][-1].loss < workers.found[0][0].loss
