import math

from hypothesis import given
from hypothesis import strategies as st

from gyral.keys import Bucket, Ring, new_key


def test_only_who_has_the_key_is_found_and_only_its_hash_is_kept():
    secret, digest = new_key()
    ring = Ring({digest.upper(): "me", new_key()[1]: "you"})
    assert ring.find(b"Bearer " + secret.encode()) == "me" and ring.find(b"bearer  " + secret.encode() + b" ") == "me"
    assert ring.find(b"Bearer " + digest.encode()) is None and ring.find(secret.encode()) is None
    assert secret not in repr(vars(ring)) and len(ring) == 2


@given(
    st.floats(0.1, 1000),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(0, 3) | st.floats(allow_nan=True), st.floats(0.1, 20)), max_size=80),
)
def test_no_clock_gives_more_than_the_rate_the_burst_and_one_overdraft(rate, burst, steps):
    bucket, now, passed, spent, largest, latest = Bucket(rate, burst, 0.0), 0.0, 0.0, 0.0, 0.0, 0.0
    for moved, amount in steps:
        now = latest + moved
        if now > latest and math.isfinite(now):
            passed, latest = passed + (now - latest), now
        elif now == math.inf:
            continue
        if bucket.wait_s(now) == 0:
            bucket.spend(amount)
            spent, largest = spent + amount, max(largest, amount)
    assert spent <= burst + rate * passed + largest + 1e-6 * (1 + spent)


def test_who_waits_as_long_as_is_said_may_spend_again():
    bucket = Bucket(2.0, 4.0, 0.0)
    bucket.spend(10)
    wait = bucket.wait_s(0.0)
    assert 3 < wait < 3.001
    assert bucket.wait_s(wait - 0.01) > 0
    assert bucket.wait_s(wait) == 0
    bucket.spend(math.nan)
    assert bucket.wait_s(wait) == 0
