"""Tasks that compare rows: the losses and the bits are those of one process, whoever computes which row and whoever dies."""

import pytest

from .conftest import TOLERANCE

STEPS = 40
SHARP = {"self_distilled": 5e-5}
"""Where a teacher's softmax at a temperature of .04 makes rounding 25 times larger: 1.4e-5 on an EPYC, below 1e-5 on a Xeon."""


@pytest.mark.parametrize(("task", "workers"), [("clip", 2), ("siglip", 3), ("two_tower", 3), ("self_distilled", 2)])
def test_rows_are_compared_with_those_of_all_members(stage, fault_free, task, workers):
    free = fault_free(steps=STEPS, task=task)
    run = stage(steps=STEPS, task=task, heartbeat_s=5.0, pause_s=0.0).open(workers)
    for _ in range(workers):
        run.join()
    run.ends_as(free, tolerance=SHARP.get(task, TOLERANCE))
    assert {line["members"] for line in run.lines()} == {workers}


@pytest.mark.parametrize(
    ("task", "point"),
    [
        ("clip", "elastic.gathered:32"),  # of three a step
        ("clip", "elastic.returned:21"),  # of two
        ("self_distilled", "elastic.gathered:10"),
        ("two_tower", "elastic.returned:10"),
    ],
)
def test_a_member_dies_while_rows_are_on_their_way(stage, fault_free, task, point):
    free = fault_free(steps=STEPS, task=task)
    run = stage(steps=STEPS, task=task, pause_s=0.05).open(2)
    run.join(GYRAL_FAULT=point)
    run.join()
    run.until(lambda: "is gone" in run.log())
    run.join()
    run.ends_as(free, tolerance=SHARP.get(task, TOLERANCE))
    assert {line["members"] for line in run.lines()} == {1, 2}, run.log()
    assert sum(line["retries"] for line in run.lines()) >= 1


def test_without_leaves_losses_of_compared_rows_stay_within_rounding(stage, fault_free):
    free = fault_free(steps=STEPS, task="clip")
    run = stage(steps=STEPS, task="clip", leaves=0, pause_s=0.05).open(3)
    killed = [run.join() for _ in range(3)][1]
    run.until_step(10)
    run.kill(killed)
    run.until_step(15)
    run.join()
    run.ends_as(free, is_bitwise=False)
    assert {line["members"] for line in run.lines()} >= {2, 3}
