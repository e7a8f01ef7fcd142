"""The front against its definition, and who gets what."""

import numpy as np

from gyral.compress.front import ALIKE, chosen, on_front, point_of
from gyral.config.sections import DeviceTier
from gyral.model.card import Variant


def variant(to, quality, size, ms, memory=1, why=""):
    return Variant(to, quality, size_bytes=size, memory_bytes=memory, p50_ms={"1": ms, "8": ms}, why=why)


def test_the_front_is_what_nothing_beats():
    random = np.random.default_rng(0)
    for metric, sign in (("ndcg_at_10", 1), ("bits_per_byte", -1)):
        every = [variant(str(at), *map(float, random.integers(1, 6, 3) * 10)) for at in range(40)]
        found = on_front([point_of(each, metric) for each in every])
        for each, is_front in zip(every, found, strict=True):
            mine = (sign * each.quality, -each.size_bytes, -each.p50_ms["8"])
            others = [(sign * one.quality, -one.size_bytes, -one.p50_ms["8"]) for one in every]
            is_beaten = any(all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine for other in others)
            assert is_front is not is_beaten
        assert 1 < sum(found) < 40


def test_times_within_the_noise_say_nothing_and_what_failed_is_nowhere():
    near = [variant("a", 0.5, 10, 1.0), variant("b", 0.5, 10, 1 + 0.9 * ALIKE), variant("c", 0.5, 9, 1 + 0.9 * ALIKE)]
    points = [point_of(each, "recall") for each in near]
    assert on_front(points[:2]) == [True, True] and on_front(points) == [False, False, True]
    assert on_front([point_of(Variant("x", why="cannot be made"), "recall"), points[0]]) == [False, True]


def test_a_battery_gets_the_smallest_and_a_machine_the_best_of_the_fastest():
    every = [
        variant("", 1.0, 100, 10.0, memory=100), variant("int8", 0.99, 25, 4.0, memory=30),
        variant("prune", 0.995, 60, 4.1, memory=70), variant("int4", 0.9, 15, 3.9, memory=20, why="loses 10 %"),
        Variant("2:4", why="cannot be made"),
    ]  # fmt: skip
    phone, server = DeviceTier(memory_bytes=80, is_on_battery=True), DeviceTier(memory_bytes=1000)
    assert chosen(phone, every, "recall").to == "int8" and chosen(server, every, "recall").to == "prune"
    assert chosen(DeviceTier(memory_bytes=69), every, "recall").to == "int8"
    assert chosen(DeviceTier(memory_bytes=25), every, "recall") is None
