"""The search finds what is best among all layouts that fit, and says why others do not."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from gyral.errors import ConfigError
from gyral.plan.axes import SHARDED_ADAM
from gyral.plan.counters import Transformer
from gyral.plan.hardware import DEVICES
from gyral.plan.layout import SHARE, meshes, search
from gyral.plan.machine import Machine
from gyral.plan.memory import memory
from gyral.plan.steptime import step_time

from . import published

A100 = DEVICES["a100-80"]
SMALL = Transformer(depth=12, width=1024, heads=16, hidden=4096, length=1024, vocab=32000)


def test_it_finds_the_layout_that_megatron_was_run_with():
    model, layout = published.megatron("gpt3-175B", "seqsel")
    found = search(model, A100, Machine(A100), 64, 64, dropout=True, flash=False)
    best = found.best[0].layout
    assert (best.tensor, best.pipeline, best.recompute, best.sequence, best.microbatch) == (8, 8, "selective", True, 1)
    assert best.interleave > 1
    run = step_time(model, layout, Machine(A100), dropout=True).total
    assert found.best[0].step.total <= run
    assert [each.step.total for each in found.best] == sorted(each.step.total for each in found.best)
    assert any("need more memory than 76 GB" in why for why in found.refused)


def test_what_is_found_fits_and_nothing_that_fits_is_faster():
    limit = 12e9
    machine = Machine(A100)
    found = search(SMALL, A100, machine, 16, 64, SHARDED_ADAM, limit_bytes=limit)
    assert all(each.memory.total.interval[1] <= limit for each in found.best)
    fastest = float("inf")
    for mesh, recompute in itertools.product(meshes(SMALL, A100, 16, 64, True), ("none", "full")):
        from msgspec.structs import replace

        layout = replace(mesh, recompute=recompute)
        if layout.why_not(SMALL):
            continue
        stages = [memory(SMALL, layout, SHARDED_ADAM, stage).total.high for stage in range(layout.pipeline)]
        if max(stages) <= limit:
            fastest = min(fastest, step_time(SMALL, layout, machine, SHARDED_ADAM).total)
    assert found.best[0].step.total == fastest


@given(ranks=some.sampled_from([1, 2, 6, 8, 16, 32]), batch=some.sampled_from([32, 48, 96]))
@settings(max_examples=20, deadline=None)
def test_every_layout_uses_all_ranks_and_the_whole_batch(ranks, batch):
    for each in search(SMALL, A100, Machine(A100), ranks, batch, SHARDED_ADAM).best:
        layout = each.layout
        assert layout.ranks == ranks and layout.passes * layout.parts * layout.microbatch == batch
        assert layout.tensor <= A100.node and not layout.why_not(SMALL)
        assert each.memory.total.high <= SHARE * A100.memory


def test_more_memory_is_never_slower():
    times = []
    for limit in (6e9, 12e9, 40e9):
        times.append(search(SMALL, A100, Machine(A100), 8, 64, SHARDED_ADAM, limit_bytes=limit).best[0].step.total)
    assert times == sorted(times, reverse=True) and times[0] > times[-1]


def test_a_model_that_fits_nowhere_is_refused_with_numbers():
    with pytest.raises(ConfigError, match="no layout of 8 ranks") as caught:
        search(published.megatron("megatron-1T", "none")[0], A100, Machine(A100), 8, 8)
    assert "more memory than 76 GB" in caught.value.why
