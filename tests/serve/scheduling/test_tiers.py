import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.config.sections import DeviceTier
from gyral.errors import InputError
from gyral.model.tiers import BUILT_IN, tiers
from gyral.serve.scheduling.tiers import classify

IPHONE = b"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1"
PIXEL = b"Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36"
FIREFOX = b"Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0"


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({b"x-gyral-tier": b"laptop", b"user-agent": IPHONE}, "laptop"),
        ({b"user-agent": IPHONE}, "phone"),
        ({b"user-agent": PIXEL}, "phone"),
        ({b"user-agent": FIREFOX}, "laptop"),
        ({b"user-agent": FIREFOX, b"sec-ch-ua-mobile": b"?1"}, "phone"),
        ({b"user-agent": FIREFOX, b"device-memory": b"1"}, "phone"),
        ({b"user-agent": FIREFOX, b"device-memory": b"8"}, "laptop"),
        ({b"user-agent": FIREFOX, b"device-memory": b"a lot"}, "laptop"),
        ({b"user-agent": b"python-httpx/0.28"}, "server"),
        ({}, "server"),
    ],
)
def test_devices_are_told_apart(headers, name):
    found = classify(headers, BUILT_IN)
    assert found.name == name and found.why


def test_a_tier_of_ones_own_is_declared_and_a_misspelt_one_is_told():
    own = tiers({"kiosk": DeviceTier(memory_bytes=1 << 30), "phone": DeviceTier(memory_bytes=7)})
    assert classify({b"x-gyral-tier": b"kiosk"}, own).tier.memory_bytes == 1 << 30
    assert classify({b"user-agent": IPHONE}, own).tier.memory_bytes == 7
    with pytest.raises(InputError) as error:
        classify({b"x-gyral-tier": b"kisok"}, own)
    assert "kiosk" in error.value.hint


@given(st.dictionaries(st.sampled_from([b"user-agent", b"device-memory", b"sec-ch-ua-mobile"]), st.binary(max_size=600)))
def test_whatever_a_client_sends_it_gets_a_tier(headers):
    for known in (BUILT_IN, {"kiosk": DeviceTier(memory_bytes=1)}):
        assert classify(headers, known).name in known


def test_a_tiers_deadline_is_less_what_its_network_takes_as_it_was_observed_or_else_told():
    own = tiers({"phone": DeviceTier(memory_bytes=1, deadline_ms=300, round_trip_ms=100, min_quality=0.9)})
    phone = classify({b"x-gyral-tier": b"phone"}, own)
    assert phone.deadline_s(5.0) == pytest.approx(0.2) and phone.floor() == 0.9
    for rtt, left_s in ((b"250", 0.05), (b"0", 0.3), (b"-3", 0.2), (b"nan", 0.2), (b"soon", 0.2), (b"9999", 0.001)):
        observed = classify({b"user-agent": IPHONE, b"rtt": rtt}, own)
        assert observed.deadline_s(5.0) == pytest.approx(left_s)
    server = classify({}, own)
    assert server.deadline_s(5.0) == 5.0 and server.floor() == -math.inf
