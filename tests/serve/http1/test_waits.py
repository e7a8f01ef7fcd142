"""Deadlines against a plain list of them."""

from hypothesis import given
from hypothesis import strategies as st

from gyral.serve.http1.waits import Waits

STEPS = st.lists(st.tuples(st.sampled_from(["put", "drop", "late"]), st.integers(0, 5), st.floats(0, 3)), max_size=60)


@given(STEPS)
def test_who_is_late_is_what_a_table_of_deadlines_says(steps):
    waits, due, now = Waits(2.0), {}, 0.0
    for what, who, passed in steps:
        now += passed
        if what == "put":
            waits.put(who, now)
            due[who] = now + 2.0
        elif what == "drop":
            waits.drop(who)
            due.pop(who, None)
        else:
            late = {each for each, at in due.items() if at <= now}
            assert set(waits.late(now)) == late
            due = {each: at for each, at in due.items() if each not in late}
        assert len(waits) == len(due)
