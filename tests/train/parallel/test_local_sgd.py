"""Ranks that meet every few steps, and sums in fewer bytes: against plain numpy of the same arithmetic."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from gyral.config.training import Outer
from gyral.train.parallel.local_sgd import evenly, pace
from gyral.train.parallel.wire import CHUNK, quantized, restored

from ...verbs import result

WORKER = """
import sys, json, torch, torch.distributed as dist
from datetime import timedelta
from gyral.config.training import Outer
from gyral.train.parallel.local_sgd import Fragment
from gyral.train.parallel.wire import summed
folder, rank, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size, timeout=timedelta(seconds=60))
own = torch.randn(5_000, generator=torch.Generator().manual_seed(rank))
left = torch.zeros_like(own)
found = {}
for wire in ("f32", "bf16", "int8"):
    found[wire] = [summed(own.clone(), wire, None, left if wire == "int8" else None) for _ in range(3)]
param = torch.nn.Parameter(torch.zeros(3_000))
fragment = Fragment([param], Outer(every=1, rate=0.7, momentum=0.9, ramp=4, wire="f32"))
points = []
for step in range(6):
    with torch.no_grad():
        param.add_(torch.randn(3_000, generator=torch.Generator().manual_seed(100 * step + rank)))
    fragment.meet(None)
    points.append(param.detach().clone())
torch.save({"sums": found, "points": points}, f"{folder}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """What three ranks found."""
    folder = tmp_path_factory.mktemp("met")
    command = [sys.executable, "-P", "-W", "error", "-c", WORKER, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*command, str(rank), "3"], stderr=subprocess.PIPE, env=environment) for rank in range(3)]
    for each in ranks:
        _, error = each.communicate(timeout=150)
        assert each.returncode == 0, error.decode()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


def test_sums_are_alike_on_all_ranks_and_what_rounding_leaves_out_comes_later(met):
    true = sum(torch.randn(5_000, generator=torch.Generator().manual_seed(rank)) for rank in range(3)).numpy()
    for wire, bound in (("f32", 1e-5), ("bf16", 0.05), ("int8", 0.12)):
        first, *others = (each["sums"][wire] for each in met)
        assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
        assert np.abs(first[0].numpy() - true).max() <= bound
    rounds = [each.numpy() - true for each in met[0]["sums"]["int8"]]
    assert np.abs(sum(rounds)).mean() < 1.6 * np.abs(rounds[0]).mean(), "three errors add up to little more than one"


def test_the_outer_step_is_nesterovs_and_grows_out_of_averaging(met):
    common, velocity, points = np.zeros(3_000), np.zeros(3_000), []
    for step in range(6):
        rate, momentum = 1 - 0.3 * min(1, step / 4), 0.9 * min(1, step / 4)
        moved = [torch.randn(3_000, generator=torch.Generator().manual_seed(100 * step + rank)).numpy() for rank in range(3)]
        mean = -sum(moved) / 3
        velocity = momentum * velocity + mean
        common = common - rate * (mean + momentum * velocity)
        points.append(common)
    for each in met:
        for point, expected in zip(each["points"], points, strict=True):
            np.testing.assert_allclose(point.numpy(), expected, atol=2e-5)


def test_the_first_meeting_is_an_average():
    assert pace(Outer(every=5), 0) == (1.0, 0.0) and pace(Outer(every=5), 500) == (0.7, 0.9)
    assert pace(Outer(every=5, ramp=0), 0) == (0.7, 0.9)


def test_codes_come_back_within_half_a_step():
    value = torch.randn(4 * CHUNK, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [1e-6, 1.0, 1e4, 0.0]
    ).repeat_interleave(CHUNK)
    codes, scales = quantized(value)
    assert codes.dtype == torch.int8 and len(scales) == 4
    assert bool(((restored(codes, scales) - value).abs() <= 0.5001 * scales.repeat_interleave(CHUNK)).all())


def test_fragments_hold_every_parameter_once():
    params = [torch.nn.Parameter(torch.zeros(size)) for size in (5, 1000, 3, 3, 800, 90, 1)]
    groups = evenly(params, 3)
    assert [id(param) for group in groups for param in group] == [id(param) for param in params]
    assert len(groups) == 3


def test_they_learn_together_though_they_rarely_meet(tmp_path):
    """Two ranks that meet every 5 steps, through the command: the held-out loss is near that of all-reduce."""
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(40):
        (pages / f"{number}.txt").write_text(" ".join(f"word{(number * 7 + k * k) % 23} turns" for k in range(60)))
    done = {}
    for name, more in (("all", []), ("few", ["train.outer.every=5"]), ("bf16", ["train.wire=int8"])):
        sets = ["lm.depth=1", "lm.width=32", "lm.length=32", "train.batch=8", "train.steps=40", "train.optim.rate=3e-3", *more]
        sets += ["curate.stages=['extract', 'repair', 'digest']"]
        words = [word for each in sets for word in ("--set", each)]
        told = result("train", pages, "--family", "lm", "--parallel", "data=2", *words, "--root", tmp_path)
        done[name] = told["metrics"]["loss"]
    assert abs(done["bf16"] - done["all"]) < 0.02 * done["all"] and done["few"] < 1.08 * done["all"]
