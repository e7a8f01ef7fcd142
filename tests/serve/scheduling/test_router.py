import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config.sections import DeviceTier
from gyral.model.tiers import BUILT_IN
from gyral.serve.scheduling.cost import Cost, Curve
from gyral.serve.scheduling.router import HOLD_S, Router, Variant, Wish, consider, curve_on

MIB = 1 << 20
FP32 = Variant("fp32", 0.9, 400 * MIB, 600 * MIB, {"server": Curve(0.004, 0.0005)})
INT8 = Variant("int8", 0.895, 100 * MIB, 150 * MIB, {"server": Curve(0.0016, 0.00014)}, ("torch", "onnx"))
INT4 = Variant("int4", 0.87, 60 * MIB, 90 * MIB, {"server": Curve(0.0012, 0.0001)}, ("torch", "gguf"))
ALL = [FP32, INT8, INT4]


def pick(wish, tier="server", variants=ALL):
    return Router(variants, BUILT_IN, tier).pick(wish, 0.0)


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        (Wish(deadline_s=0.1, rate=100), "fp32"),
        (Wish(deadline_s=0.1, rate=3000), "int8"),
        (Wish(deadline_s=0.1, rate=6000), "int4"),
        (Wish(deadline_s=0.1, rate=3000, workers=4), "fp32"),
        (Wish(deadline_s=0.004, rate=100), "int8"),
        (Wish(deadline_s=0.1, rate=100_000, min_quality=0.89), "int8"),
        (Wish(deadline_s=0.1, rate=100, max_usd=0.00002), "int8"),
        (Wish(deadline_s=0.1, rate=100, backlog=400), "int8"),
    ],
)
def test_the_most_accurate_one_that_keeps_up_is_chosen(wish, name):
    choice = pick(wish)
    assert choice.variant.name == name
    assert choice.explain().startswith(f"{name}: ")


def test_on_a_phone_the_smallest_that_runs_there_and_is_good_enough():
    choice = pick(Wish(deadline_s=1.0), "phone")
    assert choice.variant.name == "int4"
    assert "estimated" in choice.explain() and "runs in torch" in choice.explain()
    assert pick(Wish(deadline_s=1.0, min_quality=0.89), "phone").variant.name == "int8"


def test_none_is_chosen_when_none_is_allowed_and_it_says_why():
    choice = pick(Wish(deadline_s=0.001))
    assert choice.variant is None
    assert choice.explain().count("too slow for 1 ms") == 3
    assert pick(Wish(min_quality=0.95)).explain().count("below the floor of 0.95") == 3


def test_it_does_not_switch_back_and_forth_at_the_edge_but_goes_back_when_there_is_room():
    router = Router(ALL[:2], BUILT_IN)
    chosen = []
    for tick in range(300):
        rate = 1020 if tick % 2 else 1060  # 1,034/s is what `fp32` sustains within 20 ms
        chosen.append(router.pick(Wish(deadline_s=0.02, rate=rate), tick / 10).variant.name)
    switches = sum(a != b for a, b in pairwise(chosen))
    assert chosen[-1] == "int8" and switches <= 1
    later = [router.pick(Wish(deadline_s=0.02, rate=500), 30 + tick / 10).variant.name for tick in range(30)]
    assert later[0] == "int8" and later[-1] == "fp32"
    assert abs(later.index("fp32") / 10 - HOLD_S) <= 0.2
    assert router.pick(Wish(deadline_s=0.02, rate=5000), 40.0).variant.name == "int8", "down at once"


def test_a_tier_where_nobody_measured_is_estimated_from_one_where_somebody_did():
    slow = DeviceTier(memory_bytes=1 << 30, flop_per_s=10e9, bytes_per_s=5e9)
    curve, is_estimated = curve_on(FP32, "slow", {**BUILT_IN, "slow": slow})
    assert is_estimated and curve == pytest.approx((0.004 * 4, 0.0005 * 10))
    with pytest.raises(KeyError, match="fp32"):
        curve_on(FP32._replace(curves={"elsewhere": Curve(1, 1)}), "server", BUILT_IN)


VARIANT = st.builds(
    lambda name, quality, size, fixed, each, runtime: Variant(
        name, quality, size, size, {"server": Curve(fixed + 1e-5, each)}, (runtime,)
    ),
    st.sampled_from("abcdefgh"),
    st.sampled_from([0.5, 0.8, 0.9, 0.95]),
    st.integers(1, 1 << 36),
    st.floats(0, 0.05),
    st.floats(0, 0.01),
    st.sampled_from(["torch", "gguf"]),
)
WISH = st.builds(
    Wish,
    tier=st.sampled_from(["server", "phone", "laptop"]),
    deadline_s=st.sampled_from([0.005, 0.02, 0.5, math.inf]),
    min_quality=st.sampled_from([-math.inf, 0.8, 0.92]),
    max_usd=st.sampled_from([1e-5, math.inf]),
    rate=st.floats(0, 20_000),
    backlog=st.floats(0, 1000),
    workers=st.sampled_from([0.5, 1.0, 4.0]),
)


@settings(deadline=None)
@given(st.lists(VARIANT, min_size=1, max_size=6, unique_by=lambda each: each.name), WISH)
def test_what_is_explained_is_what_was_chosen(variants, wish):
    """An oracle that only reads the explanation and the variants comes to the same choice, and every reason given is true."""
    tier = BUILT_IN[wish.tier]
    choice = Router(variants, BUILT_IN, wish.tier).pick(wish, 0.0)
    by_name = {each.name: each for each in variants}
    assert sorted(each.name for each in choice.considered) == sorted(by_name)
    assert len(choice.explain().splitlines()) == len(variants) + 1
    for told in choice.considered:
        variant = by_name[told.name]
        reasons = {
            "runs in": bool(tier.runtimes) and not set(tier.runtimes) & set(variant.runtimes),
            "takes": variant.memory_bytes > tier.memory_bytes,
            "below the floor": variant.quality < wish.min_quality,
            "too slow": told.alone_s * 1.1 > wish.deadline_s * (1 - 1e-9),
            "does not keep up": told.capacity < wish.rate + max(0.0, wish.backlog - 32) / 0.1,
            "USD for": told.usd > wish.max_usd,
        }
        for words, is_so in reasons.items():
            assert words not in told.verdict or is_so
        assert told.is_allowed == (not any(value for words, value in reasons.items() if words != "does not keep up"))
    allowed = [each for each in choice.considered if each.is_allowed]
    able = [each for each in allowed if each.keeps_up]
    if choice.variant is None:
        assert not allowed
        return
    [chosen] = [each for each in choice.considered if each.verdict == "chosen"]
    assert chosen.name == choice.variant.name and chosen.is_allowed
    if able and tier.is_on_battery:
        assert by_name[chosen.name].size_bytes == min(by_name[each.name].size_bytes for each in able)
    elif able:
        assert chosen.keeps_up and chosen.quality == max(each.quality for each in able)
    else:
        assert chosen.capacity == max(each.capacity for each in allowed)


def test_capacity_is_what_simulated_batches_of_that_size_reach():
    found = consider(FP32, Wish(deadline_s=0.02), Cost(FP32.curves["server"], 32), BUILT_IN["server"])
    assert 2 * (0.004 + 0.0005 * found.batch) * 1.1 <= 0.02 < 2 * (0.004 + 0.0005 * (found.batch + 1)) * 1.1
    assert found.capacity == pytest.approx(0.9 * found.batch / (0.004 + 0.0005 * found.batch))
