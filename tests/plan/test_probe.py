"""A probe of this machine: what it measures, keeps, reads between its points, and refuses."""

import json
import time

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gyral.errors import InputError, NotFound
from gyral.plan import probe as probes
from gyral.plan.axes import ADAM, Layout
from gyral.plan.counters import Transformer
from gyral.plan.operations import Matmul, Walk, head_operations
from gyral.plan.probe import Measured, Probe, load, save, seconds_of
from gyral.plan.steptime import step_time, total_s

from .. import verbs


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """By the command, in a project of its own."""
    root = tmp_path_factory.mktemp("probed")
    begun = time.perf_counter()
    done = verbs.gyral("doctor", "--probe", "--json", folder=root)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - begun < 300
    assert "measuring products of f32" in done.stderr
    findings = json.loads(done.stdout.strip().splitlines()[-1])["findings"]
    assert sum(each["check"] == "probe" for each in findings) == 7
    return load(root)


def test_rates_are_those_of_this_machine(measured):
    left, right = torch.rand(512, 512), torch.rand(512, 512)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.mm(left, right)
        seconds = []
        for _ in range(20):
            begun = time.thread_time()
            torch.mm(left, right)
            seconds.append(time.thread_time() - begun)
    finally:
        torch.set_num_threads(threads)
    assert measured.rate(512, 512, 512) == pytest.approx(2 * 512**3 / min(seconds), rel=0.6)
    assert measured.sums[-1][1] > measured.sums[0][1] > 0
    assert measured.copy[-1][1] > measured.copy[0][1]
    assert min(measured.disk_write, measured.disk_read) > 1e6
    assert 1e-11 < measured.exp_s < 1e-7


def test_a_step_of_this_machine_is_predicted(measured):
    model = Transformer(depth=2, width=128, heads=4, hidden=384, length=128, vocab=257, gated=True)
    found = step_time(model, Layout(batch=8, microbatch=8), Measured(measured), ADAM)
    assert 1e-3 < found.total < 10 and found.exchange == 0
    two = step_time(model, Layout(batch=16, microbatch=8, data=2), Measured(measured), ADAM)
    assert two.exchange > 0  # nothing hides it where ranks share cores
    assert found.figure(Measured(measured).by).by == "measured"


def made(**changes):
    """A probe whose rate of f32 is n k m to known powers."""
    sides = probes.SIDES
    rates = [1e9 * n**0.5 * k**0.25 * m**0.125 for n in sides[0] for k in sides[1] for m in sides[2]]
    told = {
        "at": "2026-01-01T00:00:00+00:00", "load": 0.0, "sides": sides, "products": {"f32": rates, "bf16": rates},
        "attention": {"f32": [(16, 2e-9), (64, 5e-9)], "bf16": [(16, 2e-9), (64, 8e-9)]}, "exp_s": 1e-9,
        "copy": [(1e3, 1e-6), (1e6, 1e-3)], "new": [(1e6, 0.0), (4e6, 4e-3)],
        "sums": [(1e3, 1e-4), (1e6, 1e-2)], "disk_write": 1e8, "disk_read": 1e9,
    }  # fmt: skip
    return Probe(**{**told, **changes})


def test_between_points_the_log_is_interpolated_and_outside_nothing_is_added():
    found = made()
    for n, k, m in ((32, 64, 64), (100, 128, 700), (2048, 1024, 1024)):
        assert found.rate(n, k, m) == pytest.approx(1e9 * n**0.5 * k**0.25 * m**0.125)
    assert found.rate(1, 64, 64) == pytest.approx(found.rate(32, 64, 64))
    assert found.rate(10**6, 10**6, 10**6) == pytest.approx(found.rate(2048, 1024, 1024))
    points = [(1e3, 1e-4), (1e6, 1e-2)]
    assert seconds_of(points, 1) == pytest.approx(1e-4)
    assert seconds_of(points, np.sqrt(1e9)) == pytest.approx(1e-3)
    assert seconds_of(points, 3e6) == pytest.approx(3e-2)


def test_a_probe_times_operations():
    timer = Measured(made())
    product = Matmul(2.0 * 32 * 64 * 64 * 3, 0.0, 3.0, 32, 64)
    assert timer.matmul_s(product, 4) == pytest.approx(product.flops / timer.probe.rate(32, 64, 64))
    assert timer.walk_s(Walk(4e6, 2, exps=1e6)) == pytest.approx(2e-3 + 1e-3)
    assert timer.gather_s(1e6, 2) == pytest.approx(0.5e-2)
    assert timer.gather_s(1e6, 1) == 0


def test_a_score_costs_more_than_its_products_and_a_new_tensor_more_than_an_old_one():
    timer = Measured(made())
    for width, seconds in ((64, 8e-9), (40, 5e-9), (8, 2e-9), (128, 16e-9)):
        assert timer.matmul_s(Matmul(4.0 * width * 1e6, 0.0, 1.0, 256, width, fused=True), 2) == pytest.approx(1e6 * seconds)
    # nothing up to a size, all of it from another one on, by the byte
    for size, seconds in ((5e5, 0.0), (1e6, 0.0), (2e6, 2e6 * 0.5e-9), (4e6, 4e-3), (8e6, 8e-3)):
        walk = Walk(2e6, 2)
        assert timer.walk_s(walk._replace(new_bytes=size)) - timer.walk_s(walk) == pytest.approx(2 * seconds)
    rows = Matmul(2.0 * 2000 * 64 * 500, 0.0, 1.0, 2000, 500)
    assert timer.matmul_s(rows, 4) == pytest.approx(rows.flops / timer.probe.rate(2000, 64, 500) + 4e-3)


def test_the_loss_over_many_tokens_takes_what_is_told(measured):
    """Logits of 64 MiB: without what new memory costs this was told 36 % under."""
    rows, width, vocab = 4096, 128, 4096
    model = Transformer(depth=1, width=width, heads=2, hidden=256, length=rows, vocab=vocab)
    timer, found = Measured(measured), head_operations(model, Layout(batch=1), 4)
    told = sum(total_s(timer, each, 4) for each in found)
    x, weight = (torch.rand(n, width, requires_grad=True) for n in (rows, vocab))
    targets, seconds, threads = torch.randint(0, vocab, (rows,)), [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(5):
            begun = time.thread_time()
            F.cross_entropy(F.linear(x, weight), targets).backward()
            seconds.append(time.thread_time() - begun)
            x.grad = weight.grad = None
    finally:
        torch.set_num_threads(threads)
    assert told == pytest.approx(min(seconds), rel=0.25)


def test_logits_are_four_new_tensors_and_two_more_where_they_are_cast():
    model = Transformer(depth=1, width=64, heads=1, hidden=64, length=256, vocab=1_000)
    for number_bytes, expected in ((4, [4, 4, 4, 4]), (2, [2, 2, 4, 4, 4, 4])):
        both = head_operations(model, Layout(batch=1), number_bytes)
        made_new = [each.new_bytes for _, walks in both for each in walks]
        made_new += [number_bytes * each.rows * each.columns for each in both[0][0]]
        assert sorted(made_new) == [256_000 * each for each in expected]


def test_what_was_kept_is_read_and_what_is_broken_is_told(tmp_path):
    with pytest.raises(NotFound, match="not probed") as caught:
        load(tmp_path)
    assert "gyral doctor --probe" in caught.value.hint
    found = made()
    path = save(tmp_path, found)
    assert load(tmp_path) == found
    path.write_bytes(msgspec.json.encode(found)[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing can be written"):
        probes.disk_rates(tmp_path / "absent")
