"""How long a text would wait, against a simulated batch, and who is told to come back."""

import random

import pytest

from gyral.model.decoding.line import Ahead
from gyral.serve.openai.patience import Patience
from gyral.serve.openai.wire import Wrong

RUNNING = 8
BASE_S, EACH_S, READ_S = 0.02, 0.003, 0.0004


def learned():
    patience = Patience(RUNNING, 1_000, 30.0, draw=lambda: 0.5)
    chance = random.Random(1)
    for _ in range(300):
        num = chance.randint(1, RUNNING)
        patience.passed(0, num, BASE_S + EACH_S * num)
        read = chance.choice([16, 64, 256])
        patience.passed(read, num, BASE_S + EACH_S * num + READ_S * read)
        patience.ended(chance.randint(20, 60))
    return patience


def simulated(waiting, prompt, seed):
    """Seconds until the last of those that wait is begun: a full batch, a token a step, answers of 20 to 60 tokens."""
    chance, now = random.Random(seed), 0.0
    left = [chance.randint(1, 60) for _ in range(RUNNING)]
    while waiting:
        now += BASE_S + EACH_S * len(left)
        left = [each - 1 for each in left if each > 1]
        while waiting and len(left) < RUNNING:
            waiting -= 1
            now += READ_S * prompt
            left.append(chance.randint(20, 60))
    return now


@pytest.mark.parametrize(("waiting", "prompt"), [(20, 30), (80, 30), (80, 400)])
def test_the_wait_is_that_of_a_simulated_batch(waiting, prompt):
    found = learned().wait_s(Ahead(waiting, waiting, RUNNING, waiting * prompt))
    expected = sum(simulated(waiting + 1, prompt, seed) for seed in range(20)) / 20
    assert found == pytest.approx(expected, rel=0.25)


def test_whose_turn_is_at_once_is_never_refused():
    patience = learned()
    patience.check(Ahead(0, 0, RUNNING - 1, 100_000), 100_000, 1e-6)
    assert patience.wait_s(Ahead(0, 0, RUNNING - 1, 100_000)) == 0


def test_who_would_wait_too_long_is_told_when_to_come_back():
    patience = learned()
    ahead = Ahead(80, 80, RUNNING, 80 * 30)
    wait_s = patience.wait_s(ahead)
    patience.check(ahead, 30, wait_s)
    with pytest.raises(Wrong) as caught:
        patience.check(ahead, 30, wait_s / 2)
    told = caught.value
    assert (told.status, told.code) == (429, "rate_limit_exceeded")
    assert wait_s * 0.8 <= int(dict(told.headers)[b"retry-after"]) <= wait_s * 1.2 + 1
    patience.check(ahead._replace(before=0), 30, wait_s / 2)  # an urgent one has its turn before them
    with pytest.raises(Wrong):  # nobody waits longer than patience_s, whatever the deadline
        patience.check(ahead._replace(waiting=900, before=900), 30, float("inf"))
    with pytest.raises(Wrong, match="too many"):
        patience.check(Ahead(1_000, 0, RUNNING, 0), 1, float("inf"))


def test_who_waits_beside_free_places_waits_for_memory():
    """Three run and two wait: there are no pages for a fourth."""
    patience = learned()
    assert patience.wait_s(Ahead(2, 2, 3, 0)) > patience.wait_s(Ahead(2, 0, 3, 0)) > 0
