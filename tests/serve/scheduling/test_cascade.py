"""When a small variant is asked first, by numbers alone."""

import math

import pytest

from gyral.model.cascade import Cascade
from gyral.serve.scheduling.cascade import LOOK, First, chosen
from gyral.serve.scheduling.cost import Cost, Curve
from gyral.serve.scheduling.router import Variant

SURE = Cascade(0.5, 0.8, 0.9, 0.01, 500, small=0.8, large=0.91, path="/sure")
LARGE = Variant("large", 1.0, 1, 1, {"server": Curve(0.0, 4e-3)})
SMALL = Variant("small", 0.9, 1, 1, {"server": Curve(0.0, 2e-3)}, cascade=SURE)


def first(small=SMALL, large=LARGE):
    return First(small, large, tuple(Cost(each.curves["server"]) for each in (small, large)))


def begun(of, times, now=0.0, step_s=1.0, **more):
    asked = {"floor": -math.inf, "slack_s": math.inf, "workers": 1, **more}
    return [of.begins(asked["floor"], asked["slack_s"], asked["workers"], now + at * step_s) for at in range(times)]


def test_where_it_is_never_sure_it_is_asked_only_to_look_and_again_once_it_is():
    one = first()
    assert all(begun(one, 50)) and one.costs().both_s == pytest.approx(2.8e-3)
    while one.costs().both_s < one.costs().large_s:
        assert not one.keeps({"confidence": 0.1})
    assert sum(begun(one, 10 * LOOK, 100)) == 10 and one.why == "it would cost more"
    while not one.costs().both_s < one.costs().large_s:
        assert one.keeps({"confidence": 0.9})
    assert all(begun(one, 50, 1000))


def test_when_both_do_not_keep_up_the_router_decides_unless_the_floor_forbids_the_small_one():
    assert all(begun(first(), 200, step_s=1 / 250))
    crowded = begun(first(), 600, step_s=1 / 500)
    assert crowded[0] and not any(crowded[-50:])
    assert all(begun(first(), 600, step_s=1 / 500, floor=0.95)) and all(begun(first(), 600, step_s=1 / 500, workers=2))


def test_floors_and_deadlines_that_it_cannot_keep():
    assert not any(begun(first(), 3, floor=0.995)) and all(begun(first(), 3, floor=0.98))
    assert not any(begun(first(), 3, slack_s=6e-3)) and all(begun(first(), 3, slack_s=7e-3))


def test_the_pair_is_the_cheapest_that_knows_when_it_is_sure():
    dear = SMALL._replace(name="dear", curves={"server": Curve(0.0, 3e-3)})
    assert chosen([LARGE, dear, SMALL]) == (SMALL, LARGE)
    for other in (SMALL._replace(cascade=None), SMALL._replace(cascade=Cascade()), SMALL._replace(quality=1.0)):
        assert chosen([LARGE, other]) is None
