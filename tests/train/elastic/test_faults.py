"""T2: members and the coordinator are killed, stopped, cut off and come back; what is learned stays the same, bit for bit."""

import random
import signal
import socket
import time

import pytest


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_members_ends_in_the_same_bits(stage, fault_free, workers):
    free = fault_free(steps=60)
    run = stage(heartbeat_s=5.0).open(workers)
    for _ in range(workers):
        run.join()
    run.ends_as(free)
    assert {line["members"] for line in run.lines()} == {workers}


def test_a_killed_member_is_missed_and_comes_back(stage, fault_free):
    free = fault_free(steps=60)
    run = stage().open(2)
    first, _ = run.join(), run.join()
    run.until_step(10)
    run.kill(first)
    run.until_step(20)
    run.join()
    run.ends_as(free)
    assert {line["members"] for line in run.lines()} == {1, 2}, run.log()


def test_without_leaves_losses_stay_within_rounding(stage, fault_free):
    free = fault_free(steps=60)
    run = stage(leaves=0).open(2)
    first, _ = run.join(), run.join()
    run.until_step(20)
    run.kill(first)
    run.until_step(30)
    run.join()
    run.ends_as(free, is_bitwise=False)


@pytest.mark.parametrize(
    ("settings", "is_bitwise"),
    [({"task": "halves"}, True), ({"precision": "bf16"}, True), ({"wire": "bf16", "leaves": 0}, False)],
)
def test_a_member_dies_whose_numbers_are_bf16(stage, fault_free, settings, is_bitwise):
    free = fault_free(steps=40, **{name: value for name, value in settings.items() if name in ("task", "precision")})
    run = stage(steps=40, **settings, pause_s=0.03).open(2)
    first, _ = run.join(), run.join()
    run.until_step(10)
    run.kill(first)
    run.until_step(15)
    run.join()
    run.ends_as(free, is_bitwise, tolerance=0.05)
    assert {line["members"] for line in run.lines()} == {1, 2}, run.log()


def test_a_stopped_member_is_left_out_and_healed_when_it_goes_on(stage, fault_free):
    free = fault_free(steps=60)
    run = stage().open(2)
    stopped, _ = run.join(), run.join()
    run.until_step(10)
    run.kill(stopped, signal.SIGSTOP)
    run.until_step(25)
    run.kill(stopped, signal.SIGCONT)
    run.ends_as(free)
    assert {line["members"] for line in run.lines()} == {1, 2}
    assert "no heartbeat" in run.log()


def test_the_coordinator_may_die(stage, fault_free):
    free = fault_free(steps=60)
    run = stage(heartbeat_s=5.0).open(2)
    run.join()
    run.join()
    run.until_step(10)
    run.coordinator.kill()
    run.coordinator.wait()
    time.sleep(0.2)
    run.open(2)
    run.ends_as(free)
    assert sum(line["retries"] for line in run.lines()) == 0


@pytest.mark.parametrize("point", ["elastic.ledger:20", "elastic.epoch:1"])
def test_the_coordinator_dies_where_it_hurts(stage, fault_free, point):
    free = fault_free(steps=60)
    run = stage().open(2, GYRAL_FAULT=point)
    run.join()
    run.join()
    run.coordinator.wait(30)
    run.open(2)
    run.ends_as(free)


@pytest.mark.parametrize("point", ["elastic.scattered:15", "elastic.committed:15", "elastic.gathering:15"])
@pytest.mark.parametrize("who", [0, 1])
def test_a_member_dies_between_what_belongs_together(stage, fault_free, point, who):
    free = fault_free(steps=60)
    run = stage().open(2)
    for number in range(2):
        run.join(**({"GYRAL_FAULT": point} if number == who else {}))
    run.until(lambda: "is gone" in run.log())
    run.join()
    run.ends_as(free)


def test_a_cut_between_two_who_both_reach_the_coordinator(stage, fault_free, proxy):
    free = fault_free(steps=60)
    run = stage().open(2)
    proxies = [proxy(), proxy()]  # whoever connects to whom goes through one
    for each in proxies:
        with socket.create_server(("127.0.0.1", 0)) as found:
            each.target = found.getsockname()
        run.join(GYRAL_ADVERTISE="{}:{}".format(*each.address), GYRAL_LISTEN="{}:{}".format(*each.target))
    run.until_step(10)
    for each in proxies:
        each.is_cut = True
    run.ends_as(free)
    assert "nothing moved although all waited" in run.log()
    assert run.lines()[-1]["members"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_hundred_steps_with_random_deaths(stage, fault_free):
    """Six kills of members that take part, each followed by a newcomer; a stop and the coordinator's death in between."""
    free = fault_free(steps=300, leaves=4)
    run = stage(steps=300, leaves=4, pause_s=0.12).open(3)
    draw = random.Random(0)
    for _ in range(3):
        run.join()
    for number in range(6):
        run.until_step(len(run.lines()) + draw.randrange(3, 10))
        present = run.until(lambda: len(found := run.present()) > 1 and found)
        if number == 2:
            stopped = draw.choice(present)
            run.kill(stopped, signal.SIGSTOP)
            time.sleep(draw.uniform(0.1, 1.5))
            run.kill(stopped, signal.SIGCONT)
        if number == 4:
            run.coordinator.kill()
            run.coordinator.wait()
            run.open(3)
        run.kill(draw.choice(present))
        run.join()
    assert len(run.lines()) < 300
    run.ends_as(free)
    print(run.log(), sum(line["retries"] for line in run.lines()))
