"""Whose turn it is; `sorted` is the oracle."""

import random

from gyral.model.decoding.line import Ahead, Line
from gyral.model.decoding.sequence import Growing, TokenAsk


def growing(number, priority=1, deadline_at=float("inf"), prompt=(1, 2)):
    return Growing(TokenAsk(number, prompt, 5, priority=priority), 64, deadline_at, "")


def ids(line):
    return [each.ask.id for each in line]


def test_turns_go_by_priority_deadline_and_arrival():
    chance, line, added = random.Random(1), Line(), []
    for number in range(200):
        one = growing(number, chance.randrange(3), chance.choice([1.0, 2.0, 3.0, float("inf")]))
        line.add(one)
        added.append(one)
    expected = sorted(added, key=lambda each: (each.ask.priority, each.deadline_at, each.ask.id))
    for gone in chance.sample(expected, 50):
        line.remove(gone)
        expected.remove(gone)
    assert ids(line) == [each.ask.id for each in expected] and len(line) == 150
    assert [line.pop().ask.id for _ in range(150)] == [each.ask.id for each in expected]
    assert not line


def test_one_that_gave_way_comes_before_all_the_older_first():
    line = Line()
    line.add(growing(0, priority=0))
    line.give_way(growing(2, priority=2))  # the youngest of those that ran gives way first
    line.give_way(growing(1, priority=2))
    assert ids(line) == [1, 2, 0]
    line.remove(next(iter(line)))
    assert [line.pop().ask.id, line.pop().ask.id] == [2, 0]


def test_what_is_ahead_of_an_ask_is_what_would_have_its_turn_first():
    line, writes = Line(), growing(9, prompt=range(40))
    writes.read = 39
    reads = growing(8, prompt=range(30))
    reads.read = 10
    for number, (priority, deadline_at) in enumerate([(0, 9.0), (1, 3.0), (1, 5.0), (1, 5.0), (2, 1.0)]):
        line.add(growing(number, priority, deadline_at, range(1, number + 2)))
    line.give_way(growing(7, 2, prompt=range(11)))

    def ahead(priority, deadline_at):
        return line.ahead(TokenAsk(99, [1], 1, priority=priority), deadline_at, [writes, reads])

    assert ahead(1, 5.0) == Ahead(6, 5, 2, 11 + 1 + 2 + 3 + 4 + 20)  # of equal ones it is the last
    assert ahead(0, 1.0) == Ahead(6, 1, 2, 11 + 20)
    assert ahead(2, float("inf")).before == 6
