"""T2: members and the coordinator are killed, stopped, cut off and come back; what is learned stays the same, bit for bit."""

import random
import signal
import time

import pytest

TOLERANCE = 1e-5


def same(stage, losses, sha, num):
    """Each step once, in order, with its own rows; losses of one process; weights of an undisturbed run."""
    lines = stage.lines()
    assert [line["step"] for line in lines] == list(range(num))
    assert all((line["first"], line["last"]) == (8 * line["step"], 8 * line["step"] + 8) for line in lines)
    assert max(abs(line["loss"] - loss) for line, loss in zip(lines, losses, strict=True)) <= TOLERANCE
    if sha:
        assert stage.end() == sha


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_members_ends_in_the_same_bits(stage, fault_free, workers):
    losses, sha = fault_free(steps=60)
    run = stage().open(workers)
    for _ in range(workers):
        run.join()
    assert run.end() == sha
    same(run, losses, sha, 60)
    assert {line["members"] for line in run.lines()} == {workers}


def test_a_killed_member_is_missed_and_comes_back(stage, fault_free):
    losses, sha = fault_free(steps=60)
    run = stage().open(2)
    first, _ = run.join(), run.join()
    run.until_step(10)
    run.kill(first)
    run.until_step(20)
    run.join()
    assert run.end() == sha
    same(run, losses, sha, 60)
    assert {line["members"] for line in run.lines()} == {1, 2}, run.log()


def test_without_leaves_losses_stay_within_rounding(stage, fault_free):
    losses, _ = fault_free(steps=60)
    run = stage(leaves=0).open(2)
    first, _ = run.join(), run.join()
    run.until_step(20)
    run.kill(first)
    run.until_step(30)
    run.join()
    run.end()
    same(run, losses, "", 60)


def test_a_stopped_member_is_left_out_and_healed_when_it_goes_on(stage, fault_free):
    losses, sha = fault_free(steps=60)
    run = stage().open(2)
    stopped, _ = run.join(), run.join()
    run.until_step(10)
    run.kill(stopped, signal.SIGSTOP)
    run.until_step(25)
    run.kill(stopped, signal.SIGCONT)
    assert run.end() == sha
    same(run, losses, sha, 60)
    assert run.lines()[-1]["members"] == 2 and run.lines()[24]["members"] == 1
    assert "no heartbeat" in run.log()


def test_the_coordinator_may_die(stage, fault_free):
    losses, sha = fault_free(steps=60)
    run = stage().open(2)
    run.join()
    run.join()
    run.until_step(10)
    run.coordinator.kill()
    run.coordinator.wait()
    time.sleep(0.2)
    run.open(2)
    assert run.end() == sha
    same(run, losses, sha, 60)


@pytest.mark.parametrize("point", ["elastic.ledger:20", "elastic.epoch:1"])
def test_the_coordinator_dies_where_it_hurts(stage, fault_free, point):
    losses, sha = fault_free(steps=60)
    run = stage().open(2, GYRAL_FAULT=point)
    run.join()
    run.join()
    run.coordinator.wait(30)
    run.open(2)
    assert run.end() == sha
    same(run, losses, sha, 60)


@pytest.mark.parametrize("point", ["elastic.scattered:15", "elastic.committed:15", "elastic.gathering:15"])
@pytest.mark.parametrize("who", [0, 1])
def test_a_member_dies_between_what_belongs_together(stage, fault_free, point, who):
    losses, sha = fault_free(steps=60)
    run = stage().open(2)
    for number in range(2):
        run.join(**({"GYRAL_FAULT": point} if number == who else {}))
    run.until(lambda: "is gone" in run.log())
    run.join()
    assert run.end() == sha
    same(run, losses, sha, 60)


def test_a_cut_between_two_who_both_reach_the_coordinator(stage, fault_free, proxy):
    losses, sha = fault_free(steps=60)
    run = stage().open(2)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    proxy.target = ("127.0.0.1", port)
    run.join(GYRAL_ADVERTISE="{}:{}".format(*proxy.address), GYRAL_LISTEN=f"127.0.0.1:{port}")
    run.join()
    run.until_step(10)
    proxy.is_cut = True
    assert run.end() == sha
    same(run, losses, sha, 60)
    assert "nothing moved although all waited" in run.log()
    assert run.lines()[-1]["members"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1])
def test_three_hundred_steps_with_random_deaths(stage, fault_free, seed):
    losses, sha = fault_free(steps=300, leaves=4)
    run = stage(steps=300, leaves=4).open(3)
    draw = random.Random(seed)
    living = [run.join() for _ in range(3)]
    kills = 0
    for at in sorted(draw.sample(range(10, 250), 8)):
        run.until_step(at)
        if draw.random() < 0.15:
            run.coordinator.kill()
            run.coordinator.wait()
            run.open(3)
        elif draw.random() < 0.2:
            stopped = draw.choice(living)
            run.kill(stopped, signal.SIGSTOP)
            time.sleep(draw.uniform(0.1, 1.5))
            run.kill(stopped, signal.SIGCONT)
        else:
            run.kill(living.pop(draw.randrange(len(living))))
            kills += 1
            time.sleep(draw.uniform(0, 0.3))
            living.append(run.join())
    assert run.end() == sha
    same(run, losses, sha, 300)
    assert kills >= 5, run.log()
