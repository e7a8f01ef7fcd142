"""Shares: enough of them give the secret, fewer fit every secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.errors import InputError
from gyral.train.federated import shamir


@given(st.data())
def test_any_threshold_of_shares_give_the_secret(data):
    count = data.draw(st.integers(1, 9))
    threshold = data.draw(st.integers(1, count))
    secret = data.draw(st.integers(0, 2**256 - 1))
    places = data.draw(st.lists(st.integers(1, 500), min_size=count, max_size=count, unique=True))
    shares = shamir.split(secret, threshold, places)
    kept = data.draw(st.permutations(places))[: data.draw(st.integers(threshold, count))]
    assert shamir.joined({place: shares[place] for place in kept}, threshold) == secret


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1))
def test_one_share_too_few_fits_any_secret(secret, other):
    shares = shamir.split(secret, 3, [1, 2, 3])
    two = {place: shares[place] for place in (1, 2)}
    # a line through (0, other) and both shares exists: the third share that makes it so is a legal one
    weights = shamir.weights_of([1, 2, 3])
    third = (other - sum(two[place] * weights[place] for place in two)) * pow(weights[3], -1, shamir.PRIME) % shamir.PRIME
    assert shamir.joined({**two, 3: third}, 3) == other
    with pytest.raises(InputError, match="2 shares"):
        shamir.joined(two, 3)


def test_a_share_of_zero_and_of_one_look_alike():
    shares = [shamir.split(bit, 2, [1])[1] for bit in (0, 1) for _ in range(200)]
    above = [sum(value > shamir.PRIME // 2 for value in half) for half in (shares[:200], shares[200:])]
    assert all(60 <= count <= 140 for count in above)
