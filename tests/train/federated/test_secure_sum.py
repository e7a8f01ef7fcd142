"""Sums that hide their terms: equal to the plain sum to the last bit, whoever vanishes, and each term alone is noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import InputError

pytest.importorskip("cryptography")

from gyral.train.federated.secure_sum import Device, secure_sum, unmasked

SIZE = 300


def vectors(count, kind=np.uint16, seed=0):
    rng = np.random.default_rng(seed)
    return {number: rng.integers(0, np.iinfo(kind).max, SIZE).astype(kind) for number in range(1, count + 1)}


@settings(max_examples=25)
@given(st.data())
def test_it_is_the_plain_sum_of_who_sent_something(data):
    count = data.draw(st.integers(3, 8))
    threshold = data.draw(st.integers(count // 2 + 1, count))
    vanish = data.draw(st.dictionaries(st.integers(1, count), st.integers(1, 4), max_size=count))
    values = vectors(count, data.draw(st.sampled_from([np.uint16, np.uint32])), count)
    found = secure_sum(values, threshold, b"test", vanish)
    sent = [number for number in values if vanish.get(number, 5) > 3]
    revealing = [number for number in values if number not in vanish]
    if len(revealing) < threshold:
        assert found.total is None and found.survivors == []
    else:
        assert found.survivors == sent
        assert np.array_equal(found.total, sum((values[number] for number in sent), np.zeros_like(values[1])))


def test_what_one_device_sends_is_uniform_whatever_it_has():
    """Chi-square over the 256 values of each byte; and no single mask is what hides it."""
    size = 40_000
    devices = {number: Device(number, 2, b"c") for number in (1, 2, 3)}
    keys = {number: device.keys() for number, device in devices.items()}
    dealt = {number: device.shares(keys) for number, device in devices.items()}
    zeros = np.zeros(size, np.uint16)
    sent = {
        number: device.masked(zeros, {other: dealt[other][number] for other in devices if other != number})
        for number, device in devices.items()
    }
    for one in (*sent.values(), sent[1] + sent[2]):
        counts = np.bincount(one.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        assert ((counts - expected) ** 2 / expected).sum() < 350  # 255 degrees of freedom: p < 1e-4 above
    told = {number: device.revealed([1, 2, 3], []) for number, device in devices.items()}
    assert not unmasked(sent, [1, 2, 3], keys, told, 2, b"c").any()


def test_nobody_tells_both_shares_of_a_device():
    devices = {number: Device(number, 2, b"c") for number in (1, 2, 3)}
    keys = {number: device.keys() for number, device in devices.items()}
    dealt = {number: device.shares(keys) for number, device in devices.items()}
    devices[1].masked(np.zeros(4, np.uint16), {other: dealt[other][1] for other in (2, 3)})
    with pytest.raises(InputError, match="one device"):
        devices[1].revealed([1, 2, 3], [3])
    with pytest.raises(InputError, match="one device"):
        devices[1].revealed([1], [2, 3])
    devices[1].revealed([1, 2], [3])
    with pytest.raises(InputError, match="one device"):
        devices[1].revealed([1, 2, 3], [])


def test_a_share_can_be_opened_by_its_taker_only():
    devices = {number: Device(number, 2, b"c") for number in (1, 2, 3)}
    keys = {number: device.keys() for number, device in devices.items()}
    dealt = {number: device.shares(keys) for number, device in devices.items()}
    devices[3].masked(np.zeros(4, np.uint16), {1: dealt[1][2], 2: dealt[2][3]})  # what 1 dealt to 2 was handed to 3
    with pytest.raises(InputError, match="meant for another"):
        devices[3].revealed([1, 2, 3], [])


def test_half_of_a_group_is_no_threshold():
    with pytest.raises(InputError, match="threshold of 2 of 4"):
        secure_sum(vectors(4), 2, b"c")


def test_two_devices_hide_nobody():
    with pytest.raises(InputError, match="hides nobody"):
        secure_sum(vectors(2), 2, b"c")


def test_bytes_are_those_of_the_messages():
    found = secure_sum(vectors(5), 3, b"c", {5: 3})
    shares = 4 * (2 * 66 + 16)  # two shares and the tag of AES-GCM, to each of the others
    assert found.up_bytes[1] == 2 * 32 + shares + 2 * SIZE + 5 * 66
    assert found.up_bytes[5] == 2 * 32 + shares
    assert found.down_bytes[1] == 4 * 2 * 32 + shares
