"""Parts of a memory: none is given out twice, all come back."""

import gc
import itertools
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.errors import RankError
from gyral.params.channels.arena import ALIGN, Arena


@given(st.lists(st.one_of(st.integers(0, 400), st.tuples(st.integers(0, 30))), max_size=60))
def test_parts_do_not_overlap_and_all_come_back(steps):
    arena, held = Arena(mmap.mmap(-1, 1 << 16)), []
    for step in steps:
        if isinstance(step, int):
            held.append(arena.take(step))
        elif held:
            arena.give_back(held.pop(step[0] % len(held)))
        spans = sorted(held)
        assert all(first + size <= after for (first, size), (after, _) in itertools.pairwise(spans))
        assert all(first % ALIGN == 0 and first + size <= 1 << 16 for first, size in spans)
    for part in held:
        arena.give_back(part)
    assert arena.take(1 << 16) == (0, 1 << 16)
    with pytest.raises(RankError, match="keep"):
        arena.take(1)


def test_a_part_comes_back_when_the_last_view_of_it_goes():
    arena = Arena(mmap.mmap(-1, 4096))
    part = arena.take(4096)
    rows = arena.lent(part, part[0], 1024, np.float32)
    rows[:] = 7
    view = rows.reshape(32, 32)[3:, 1:]
    del rows
    gc.collect()
    with pytest.raises(RankError):
        arena.take(64)
    assert (view == 7).all()
    del view
    gc.collect()
    assert arena.take(4096) == part
